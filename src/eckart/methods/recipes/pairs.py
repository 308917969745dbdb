"""Recipes that shrink the widths between linears, in place of factors."""

from __future__ import annotations

from eckart.methods.allocation import Uniform
from eckart.methods.allocation.block_influence import BlockInfluence
from eckart.methods.objectives import InputAware
from eckart.methods.pairs import Narrow
from eckart.methods.recipe import Recipe

RECIPES = (
    Recipe(
        name="modegpt",
        reference="hidden units, rotary planes and values of attention, in place of factors",
        paper="MoDeGPT: Modular Decomposition for Large Language Model Compression",
        arxiv="2408.09632",
        year=2024,
        objective=InputAware(),
        allocation=BlockInfluence(multiple=1, fill_budget=False),
        pairs=Narrow(units="leverage", ridge=0.01, ridge_scale="tokens", keys="product", values="inputs"),
    ),
    Recipe(
        name="fewer-units",
        reference="fewer hidden units, as many in each block: a model of the same class, which needs no eckart",
        objective=InputAware(),
        allocation=Uniform(fill_budget=False),
        pairs=Narrow(keys="none", values="none"),
    ),
)
