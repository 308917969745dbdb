"""What every training of the whole model answers."""

from __future__ import annotations

from typing import ClassVar

from eckart.methods.training.config import TrainingConfig


class ModelTraining(TrainingConfig):
    """A training of all blocks at once.

    Attributes:
        follows_text: whether the loss is that of the next token of the text, and not the distance from what the
            original model predicts.
        sides: what is trained, one after another: None for all parameters, ``first`` or ``second`` for adapters on
            that factor of each layer.
    """

    what: ClassVar[str] = "Distillation"
    place: ClassVar[str] = "distillation"
    needs_data: ClassVar[bool] = True
    follows_text: ClassVar[bool] = False
    sides: ClassVar[tuple[str | None, ...]] = (None,)

    @property
    def adapts_factors(self) -> bool:
        """Whether numbers of factors are changed by adapters that are merged into them."""
        return any(side is not None for side in self.sides)
