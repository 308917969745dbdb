"""Types of fields that are read from files: whole numbers that are none of something else, and words to print."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

LARGEST = 2**63 - 1  # what other programs can hold, and what can be divided


def _whole(value: object) -> object:
    if isinstance(value, bool | str | bytes | float):
        raise ValueError(f"expected a whole number, found {type(value).__name__}")
    return value


def _printable(value: str) -> str:
    if any(ord(character) < 32 or 127 <= ord(character) < 160 for character in value):
        raise ValueError("expected a name without control characters")
    return value


Whole = Annotated[int, BeforeValidator(_whole)]
Count = Annotated[Whole, Field(ge=0, le=LARGEST)]
Size = Annotated[Whole, Field(ge=1, le=LARGEST)]
Label = Annotated[str, AfterValidator(_printable)]
