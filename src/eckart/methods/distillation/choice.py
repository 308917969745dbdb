"""Whether and how the compressed model is distilled, as a place of a recipe."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from eckart.methods.choice import Choice
from eckart.methods.distillation.base import ModelTraining


class NoDistillation(Choice):
    """Leave the blocks as they are."""

    name: Literal["none"] = "none"
    needs_data: ClassVar[bool] = False

    @property
    def training(self) -> ModelTraining | None:
        """How the model is trained; None if it is not."""
        return None


class LogitDistillation(ModelTraining):
    """All blocks are trained at once, so that the model predicts what the original one does.

    The loss is the KL divergence of the compressed model's next-token distributions from the original one's, a token
    (Hinton and others, arXiv 1503.02531, at temperature 1). Embedding, last norm and head stay as they are. Blocks are
    visited one at a time, forwards and backwards, so that a model larger than memory can be distilled.
    """

    name: Literal["logits"] = "logits"

    epochs: int = Field(8, ge=1)
    batch: int = Field(1, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    relative: bool = True
    weight_decay: float = Field(0.0, ge=0)
    final_learning_rate: float = Field(0.05, ge=0, le=1)
    patience: int = Field(3, ge=1)

    @property
    def training(self) -> ModelTraining:
        """See :attr:`NoDistillation.training`."""
        return self
