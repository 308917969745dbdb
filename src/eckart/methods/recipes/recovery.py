"""Published recipes that repair a compressed model by training it."""

from __future__ import annotations

from eckart.methods.allocation import Uniform
from eckart.methods.distillation import LoraRecovery
from eckart.methods.objectives import InputAware
from eckart.methods.recipe import Recipe

RECIPES = (
    Recipe(
        name="svd-llm-lora",
        reference="whitening, then LoRA on one factor after the other, on the calibration text",
        paper="SVD-LLM: Truncation-aware Singular Value Decomposition for Large Language Model Compression",
        arxiv="2403.07378",
        year=2024,
        objective=InputAware(),
        allocation=Uniform(multiple=1, fill_budget=False),
        distillation=LoraRecovery(),
    ),
)
