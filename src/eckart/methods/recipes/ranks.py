"""Named recipes of papers that are about ranks."""

from __future__ import annotations

from typing import Any

from eckart.methods.allocation import Lems, Masks, SecondRound, Swift, Tolerance, Uniform
from eckart.methods.metric import Fisher
from eckart.methods.objectives import InputAware
from eckart.methods.recipe import Recipe

LEMS: dict[str, Any] = {
    "paper": "Advancing SVD-based LLM Compression via Layer-Wise Error Model Search",
    "arxiv": "2610.32878",
    "year": 2026,
}
PGSVD: dict[str, Any] = {
    "paper": "Activation-Informed Pareto-Guided Low-Rank Compression for Efficient LLM/VLM",
    "arxiv": "2510.05544",
    "year": 2025,
}
SWIFT_SVD: dict[str, Any] = {
    "paper": "Swift-SVD: Theoretical Optimality Meets Practical Efficiency in Low-Rank LLM Compression",
    "arxiv": "2604.01609",
    "year": 2026,
}
DUO_SVD: dict[str, Any] = {
    "paper": "CPSVD: Enhancing Large Language Model Compression via Column-Preserving Singular Value Decomposition",
    "arxiv": "2510.19385",
    "year": 2025,
}
ARA: dict[str, Any] = {
    "paper": "ARA: Adaptive Rank Allocation for Efficient Large Language Model SVD Compression",
    "arxiv": "2510.19389",
    "year": 2025,
}

# Dampings of 0.1 and 0.3, (1 - a) C + a mean(diag C) 1, are shrinkages of a / (1 - a) of the same equation.
KFAC = InputAware(shrinkage=1 / 9, metric=Fisher(labels="next", clip=(0.1, 10.0), trim=0.125, shrinkage=3 / 7))

RECIPES = (
    Recipe(
        name="kfac-svd",
        reference="both sides of the curvature, gradients clipped by token; in its exact form, uniform ranks",
        **LEMS,
        objective=KFAC,
        allocation=Uniform(multiple=1, fill_budget=False),
    ),
    Recipe(
        name="kfac-svd-lems",
        reference="as kfac-svd; ranks by an error model of one trial a layer, exactly; no bias of the depth",
        **LEMS,
        objective=KFAC,
        allocation=Lems(multiple=8, fill_budget=False),
    ),
    Recipe(
        name="pgsvd",
        reference="one relative error of the plain weights; its alternating update ends at input-aware",
        **PGSVD,
        objective=InputAware(),
        allocation=Tolerance(multiple=1, fill_budget=False),
    ),
    Recipe(
        name="swift-svd",
        reference="ranks by importance and loss, their balance searched; what importance is is our guess",
        **SWIFT_SVD,
        objective=InputAware(),
        allocation=Swift(multiple=1, fill_budget=False),
    ),
    Recipe(
        name="duo-svd-ranks",
        reference="its ranks for modules, by changes of the divergence around the compressed model; no kept columns",
        **DUO_SVD,
        objective=InputAware(),
        allocation=SecondRound(multiple=1, fill_budget=False),
    ),
    Recipe(
        name="ara",
        reference="trained monotone masks that may stay dense; the numbers and the last choice are our proposal",
        **ARA,
        objective=InputAware(),
        allocation=Masks(multiple=1, fill_budget=False),
    ),
)
