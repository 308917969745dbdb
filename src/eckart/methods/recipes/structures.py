"""The named recipes whose papers lay a weight out in another way."""

from __future__ import annotations

from eckart.methods.allocation import Uniform
from eckart.methods.objectives import InputAware
from eckart.methods.recipe import Recipe
from eckart.methods.structure import Dictionary, KeptColumns

# As for the other recipes of papers: any rank, and what rounding down leaves of the budget is left.
AS_PUBLISHED = Uniform(multiple=1, fill_budget=False)

RECIPES: tuple[Recipe, ...] = (
    Recipe(
        name="cpsvd",
        reference="some input columns whole; uniform ranks, not its choice of them by the model's loss",
        paper="CPSVD: Enhancing Large Language Model Compression via Column-Preserving Singular Value Decomposition",
        arxiv="2510.19385",
        year=2025,
        objective=InputAware(),
        allocation=AS_PUBLISHED,
        structure=KeptColumns(refit=False),
    ),
    Recipe(
        name="rocket",
        reference="sparse coefficients by importance; uniform sizes, not its knapsack; places are counted",
        paper="ROCKET: Rapid Optimization via Calibration-guided Knapsack Enhanced Truncation for Efficient Model "
        "Compression",
        arxiv="2602.11008",
        year=2026,
        objective=InputAware(),
        allocation=AS_PUBLISHED,
        structure=Dictionary(method="rocket", refits=0),
    ),
    Recipe(
        name="compot",
        reference="orthonormal dictionary and sparse coefficients in turn; uniform sizes, not its pooled ones",
        paper="COMPOT: Calibration-Optimized Matrix Procrustes Orthogonalization for Transformers Compression",
        arxiv="2602.15200",
        year=2026,
        objective=InputAware(),
        allocation=AS_PUBLISHED,
        structure=Dictionary(method="compot", refits=0),
    ),
)
