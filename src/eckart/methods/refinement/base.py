"""What every refinement answers, and the one that does nothing."""

from __future__ import annotations

from typing import ClassVar, Literal

from eckart.methods.choice import Choice
from eckart.methods.metric import Fisher


class Refinement(Choice):
    """A choice of what is done to a block after its linears were factored."""

    needs_data: ClassVar[bool] = True

    @property
    def output_metric(self) -> Fisher | None:
        """The metric in which errors of a block's output are measured; None if all weigh the same."""
        return None


class NoRefinement(Refinement):
    """Leave the factors as the closed form gave them."""

    name: Literal["none"] = "none"
    needs_data: ClassVar[bool] = False

    @property
    def training(self) -> None:
        """How blocks are trained: not at all."""
        return None
