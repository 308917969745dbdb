"""Published recipes that repair a compressed model by training it."""

from __future__ import annotations

from eckart.methods.allocation import Uniform
from eckart.methods.distillation import LoraRecovery
from eckart.methods.objectives import InputAware, Weight
from eckart.methods.recipe import Recipe
from eckart.methods.refinement import BlockRefinement

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
    # A pair of the weight's own components beside one that is trained is one pair of both ranks (a test shows it), and
    # is stored as that. How the ranks are split, what is minimised and for how long is not known to us: both pairs are
    # trained here, each block towards the original one's output, with the schedule and the guards of our refinement.
    Recipe(
        name="calr",
        reference="components of the weight, then trained; its two pairs as one; loss and schedule our guess",
        paper="CALR: Corrective Adaptive Low-Rank Decomposition for Efficient Large Language Model Layer Compression",
        arxiv="2508.16680",
        year=2025,
        objective=Weight(),
        allocation=Uniform(multiple=1, fill_budget=False),
        refinement=BlockRefinement(),
    ),
)
