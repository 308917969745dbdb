"""What every preparation answers, and the one that does nothing."""

from __future__ import annotations

from typing import Literal

from eckart.methods.choice import Choice


class Preparation(Choice):
    """A choice of what is done to a dense block before its linears are factored."""


class NoPreparation(Preparation):
    """Factor the weights as they are."""

    name: Literal["none"] = "none"

    @property
    def training(self) -> None:
        """How blocks are trained: not at all."""
        return None
