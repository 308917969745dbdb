"""What the table of recipes says, against what their papers do."""

from __future__ import annotations

import re

import pytest
import yaml

from eckart.methods.allocation import ZeroSum
from eckart.methods.recipe import Recipe
from eckart.methods.recipes.eckart import BY_BUDGET
from eckart.methods.recipes.published import DEFAULT_RECIPE, RECIPES

OF_PAPERS = [recipe for recipe in RECIPES.values() if recipe.paper]
MULTIPLES = {"kfac-svd-lems": 8}  # of ranks, as published
BASELINES = {"int8", "int4", "gptq", "hybrid-anchored"}  # whose ranks, if any, are ours


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_each_is_known_by_its_name_and_says_what_it_is(recipe: Recipe) -> None:
    assert RECIPES[recipe.name] is recipe
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", recipe.name)
    assert recipe.reference
    assert Recipe.model_validate(yaml.safe_load(recipe.to_yaml())) == recipe


@pytest.mark.parametrize("recipe", OF_PAPERS, ids=lambda recipe: recipe.name)
def test_ranks_are_rounded_as_papers_do(recipe: Recipe) -> None:
    assert recipe.allocation.multiple == MULTIPLES.get(recipe.name, 1)
    assert recipe.allocation.fill_budget == (recipe.name in BASELINES)
    assert recipe.allocation.floor == (0.1 if recipe.name == "compot" else 0)  # which has a guard: our guess


def test_the_default_is_ours() -> None:
    assert DEFAULT_RECIPE in BY_BUDGET
    assert set(BY_BUDGET) <= set(RECIPES)


def test_zero_sum_is_in_one_shot_or_in_six() -> None:
    found = {name: recipe.allocation for name, recipe in RECIPES.items() if isinstance(recipe.allocation, ZeroSum)}
    stages = {name: allocation.stages for name, allocation in found.items() if name.startswith("zs-svd")}
    assert stages == {"zs-svd": 1, "zs-svd-staged": 6, "zs-svd-hq": 1, "zs-svd-remap": 1}


def test_aa_svd_trains_on_all_samples_in_their_order() -> None:
    names = [name for name in RECIPES if name.startswith("aa-svd") and name != "aa-svd-layer"]
    assert len(names) == 3
    for name in names:
        training = RECIPES[name].refinement.training
        assert training is not None
        assert (training.epochs, training.shuffle, training.held_out) == (25, False, 0)
        assert training.split(256) == (256, 0)


def test_only_those_that_say_so_train_or_take_few_bits() -> None:
    few = {name for name, recipe in RECIPES.items() if recipe.precision.scheme is not None}
    assert few >= {"int8", "int4", "gptq", "zs-svd-hq"}
    assert {"svd", "svd-llm", "asvd", "zs-svd", "io-svd", "dobi-svd", "adasvd"}.isdisjoint(few)
    distilled = {name for name, recipe in RECIPES.items() if recipe.distillation.training is not None}
    assert {recipe.name for recipe in OF_PAPERS} & distilled == {"svd-llm-lora"}
