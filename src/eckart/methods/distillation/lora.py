"""Recovery by LoRA on one side of the factors after the other, as in SVD-LLM (arXiv 2403.07378, section 3.2)."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from eckart.methods.distillation.base import ModelTraining


class LoraRecovery(ModelTraining):
    r"""Low-rank adapters on all second factors, merged, and then on all first ones, merged; all else stays as it is.

    The loss is that of the language model: the cross-entropy of the next token of the calibration text. A factor A of
    shape (k, l) becomes ``A + alpha / r * up down``, up (k, r) from zero and down (r, l) at random (LoRA, arXiv
    2106.09685; the start is that of PEFT). One side is trained with the other frozen, since the gradient of each
    depends on the other (SVD-LLM's sequential low-rank approximation). Blocks are visited one at a time, as in
    :class:`eckart.methods.distillation.LogitDistillation`.

    Published are r = 8, a learning rate of 1e-4, 64 sequences a step and 2 or 3 epochs over 50,000 instructions of
    Alpaca. Here it trains on the calibration samples, which are fewer. Not taken over: dropout of the adapters' inputs,
    and padding to instructions. Our guesses are alpha, the schedule and the share of the steps in which the rate rises.

    Attributes:
        rank: r of the adapters.
        alpha: their product is multiplied by alpha / r.
    """

    follows_text: ClassVar[bool] = True
    sides: ClassVar[tuple[str | None, ...]] = ("second", "first")

    name: Literal["lora"] = "lora"

    rank: int = Field(8, ge=1)
    alpha: float = Field(16.0, gt=0)
    epochs: int = Field(2, ge=1)
    batch: int = Field(64, ge=1)
    learning_rate: float = Field(1e-4, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    final_learning_rate: float = Field(0.0, ge=0, le=1)
    held_out: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _steps_are_absolute(self) -> Self:
        if self.relative:
            raise ValueError("adapters start from zero, so that no step can be relative to their size; use false")
        return self

    @property
    def training(self) -> LoraRecovery:
        """See :attr:`eckart.methods.distillation.NoDistillation.training`."""
        return self
