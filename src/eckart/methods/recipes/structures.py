"""The named recipes whose papers lay a weight out in another way."""

from __future__ import annotations

from eckart.methods.allocation import Knapsack, Tolerance, Uniform
from eckart.methods.objectives import InputAware
from eckart.methods.recipe import Recipe
from eckart.methods.structure import Dictionary, KeptColumns

# As for the other recipes of papers: any rank, and what rounding down leaves of the budget is left.
AS_PUBLISHED = Uniform(multiple=1, fill_budget=False)
# COMPOT has a guard below and above for each matrix, with numbers that are not known to us: a tenth of the largest size
# that saves bytes, and that size, are our guess.
POOLED = Tolerance(norm="spectral", multiple=1, fill_budget=False, floor=0.1)

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
        reference="sparse coefficients by importance; its knapsack over fewer sizes; places are counted",
        paper="ROCKET: Rapid Optimization via Calibration-guided Knapsack Enhanced Truncation for Efficient Model "
        "Compression",
        arxiv="2602.11008",
        year=2026,
        objective=InputAware(),
        allocation=Knapsack(multiple=1, fill_budget=False),
        structure=Dictionary(method="rocket", refits=0),
    ),
    Recipe(
        name="compot",
        reference="orthonormal dictionary, sparse coefficients; sizes by pooled singular values, guards our guess",
        paper="COMPOT: Calibration-Optimized Matrix Procrustes Orthogonalization for Transformers Compression",
        arxiv="2602.15200",
        year=2026,
        objective=InputAware(),
        allocation=POOLED,
        structure=Dictionary(method="compot", refits=0),
    ),
)
