"""Published recipes that prepare weights by training before they are factored."""

from __future__ import annotations

from eckart.methods.allocation import Uniform
from eckart.methods.objectives import InputAware
from eckart.methods.preparation import BlockPreparation, StableRank
from eckart.methods.recipe import Recipe

RECIPES = (
    Recipe(
        name="prehab",
        reference="stable rank lowered before whitening; by block and its outputs, not the whole model's task loss",
        paper="Low-Rank Prehab: Preparing Neural Networks for SVD Compression",
        arxiv="2512.01980",
        year=2025,
        objective=InputAware(),
        allocation=Uniform(multiple=1, fill_budget=False),
        # Adam with 2e-5 and batches of 64, as the authors' code has it for BERT. How many epochs is our guess.
        preparation=BlockPreparation(
            penalty=StableRank(),
            coordinates="white",
            relative=False,
            learning_rate=2e-5,
            batch=64,
            warmup=0.0,
            final_learning_rate=1.0,
            patience=20,  # to the last epoch: the weight of the penalty is small in the first ones
        ),
    ),
)
