"""What a recipe is made of."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

ALL_FIELDS = {"all-fields": True}  # the context in which fields are written that files leave out at their defaults


def expand_name(value: object) -> object:
    """Let ``objective: anchored`` stand for ``objective: {name: anchored}``."""
    return {"name": value} if isinstance(value, str) else value


class Choice(BaseModel):
    """A choice at one of a recipe's places: its name and its numbers, as plain data."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str
