"""What the demo makes: one row a model."""

from __future__ import annotations

from typing import NamedTuple


class Step(NamedTuple):
    """A compressed model.

    Attributes:
        recipe: its name.
        keep: bytes of the linear layers to keep, as a share of their 16-bit bytes.
    """

    recipe: str
    keep: float

    @property
    def name(self) -> str:
        """What its folder is called."""
        return f"{self.recipe}-{self.keep:g}"


STEPS = (
    Step("int8", 0.51),  # the scales of the rows come on top of a half
    Step("eckart-q", 0.3),
    Step("eckart-fast", 0.8),
    Step("svd-llm", 0.8),
)
