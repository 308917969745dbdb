"""What a recipe as a whole says, and which choices do not go together."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import eckart
from eckart.errors import RecipeError
from eckart.methods.allocation import ALLOCATIONS, Curvature, Learned, Search, Uniform, ZeroSum
from eckart.methods.distillation import LogitDistillation
from eckart.methods.metric import Fisher
from eckart.methods.objectives import OBJECTIVES, Anchored, InputAware, Weight
from eckart.methods.precision import Bits4, Bits8, Bits16
from eckart.methods.preparation import BlockPreparation
from eckart.methods.recipe import HALF_MADE, Recipe
from eckart.methods.refinement import BlockRefinement
from eckart.methods.sharing import Shared, SharedByLoss
from eckart.methods.structure import STRUCTURES, Hybrid, Pivoted, Remapped, TwoFactor

CHOICES = {
    "objective": list(OBJECTIVES),
    "allocation": list(ALLOCATIONS),
    "structure": list(STRUCTURES),
    "sharing": ["separate", "shared", "experts", "by-loss"],
    "precision": ["16-bit", "8-bit", "6-bit", "5-bit", "4-bit", "3-bit", "2-bit"],
    "solver": ["exact", "randomized"],
    "preparation": ["none", "block"],
    "refinement": ["none", "block"],
    "distillation": ["none", "logits"],
}


TRUNCATING = ("search", "learned", "lems", "swift", "second-round", "masks")  # the model while it is measured


@given(st.fixed_dictionaries({place: st.sampled_from(names) for place, names in CHOICES.items()}))
def test_what_goes_together_is_written_and_read_as_it_was(names: dict[str, str]) -> None:
    # By the papers: what truncates the model to a rank has none to truncate beside a base, and a remap is in 8 bits.
    # A projection is no loss that a base could lower.
    truncates = names["allocation"] in TRUNCATING or names["objective"] == "principal-outputs"
    fitted = STRUCTURES[names["structure"]].fits_itself
    beside = names["structure"] == "hybrid" and truncates
    beside = beside or (fitted and names["objective"] == "principal-outputs")
    remapped = STRUCTURES[names["structure"]].own_precision and names["precision"] != "16-bit"
    whole = names["allocation"] in ("learned", "masks") or names["objective"] == "principal-outputs"
    first = ALLOCATIONS[names["allocation"]].model_validate({}).solves_first and names["sharing"] == "separate"
    once = first and not fitted and OBJECTIVES[names["objective"]].input_source.name == "ORIGINAL"
    unsolved = names["solver"] == "randomized" and (once or names["objective"] == "principal-outputs")
    based = names["allocation"] == "formats" and names["structure"] != "hybrid"
    based = based or (names["allocation"] == "knapsack" and names["structure"] != "dictionary")
    unprepared = fitted or names["objective"] in ("weight", "principal-outputs") or names["sharing"] == "experts"
    if names["preparation"] == "block":
        unsolved = names["solver"] == "randomized" and names["objective"] == "principal-outputs"
        beside = beside or unprepared
    if beside or based or remapped or unsolved or (whole and names["sharing"] == "experts"):
        with pytest.raises(RecipeError, match="Use "):
            Recipe.model_validate(names)
        return
    recipe = Recipe.model_validate(names)
    assert {place: getattr(recipe, place).name for place in CHOICES} == names
    again = Recipe.model_validate(yaml.safe_load(recipe.to_yaml()))
    assert again == recipe
    assert hash(again) == hash(recipe)
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


@pytest.mark.parametrize("allocation", [Search(), Learned(), ZeroSum(stages=2)], ids=lambda choice: choice.name)
def test_what_truncates_a_weight_does_not_go_with_a_base(allocation: Search | Learned | ZeroSum) -> None:
    with pytest.raises(RecipeError, match="structure 'hybrid' a rank truncates only what the base"):
        Recipe(objective=InputAware(), allocation=allocation, structure=Hybrid())
    data = {"objective": InputAware(), "allocation": allocation, "structure": Hybrid()}
    assert Recipe.model_validate(data, context=HALF_MADE).structure == Hybrid()


@pytest.mark.parametrize("precision", [Bits8(), Bits4()])
def test_a_structure_with_a_precision_of_its_own_takes_no_other(precision: Bits8 | Bits4) -> None:
    with pytest.raises(RecipeError, match="says itself in how many bits"):
        Recipe(objective=Weight(), structure=Remapped(), precision=precision)
    assert Recipe(objective=Weight(), structure=Remapped()).precision == Bits16()


def test_data_is_needed_if_any_place_looks_at_it() -> None:
    assert not Recipe(objective=Weight()).needs_data
    for place in (
        {"objective": InputAware()},
        {"allocation": Curvature()},
        {"refinement": BlockRefinement()},
        {"distillation": LogitDistillation()},
    ):
        assert Recipe.model_validate({"objective": Weight(), **place}).needs_data


def test_metrics_are_those_of_the_objective_or_of_the_refinement() -> None:
    weighted = InputAware(metric=Fisher(token_weights="gradient"))
    cases = [
        (Recipe(objective=InputAware()), False, False),
        (Recipe(objective=InputAware(metric=Fisher())), True, False),
        (Recipe(objective=weighted, allocation=Curvature()), True, True),
        (Recipe(objective=Weight(), refinement=BlockRefinement(metric=Fisher())), True, False),
        (Recipe(objective=Weight(), allocation=Curvature()), False, False),
    ]
    for recipe, has_metric, weighs_tokens in cases:
        assert (recipe.has_metric, recipe.weighs_tokens) == (has_metric, weighs_tokens)


def test_the_layout_is_that_of_its_choices() -> None:
    recipe = Recipe(objective=Anchored(affine=True), structure=Pivoted(), precision=Bits8())
    layout = recipe.layout
    assert (layout.structure, layout.precision, layout.affine) == (Pivoted(), Bits8(), True)
    # 3 rows of 20 and 7 of 3, a scale of two bytes for each, a bias of ten numbers and an index of two bytes a row.
    assert layout.bytes(10, 20, 3) == (60 + 6) + (21 + 14) + 20 + 20


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"objective": "weight"}, "objective 'weight' looks at no data"),
        ({"objective": "principal-outputs"}, "objective 'principal-outputs' solves no equation"),
        ({"objective": {"name": "input-aware", "affine": True}}, "an affine objective"),
        ({"allocation": {"name": "zero-sum", "stages": 2}}, "allocation .* factors other weights"),
        ({"structure": "hybrid"}, "structure 'hybrid' is no weight of low rank alone"),
        ({"structure": "kept-columns"}, "structure 'kept-columns' is no weight"),
        ({"structure": "dictionary"}, "structure 'dictionary' is no weight"),
        ({"pairs": "narrow"}, "pairs=narrow factors none"),
        ({"sharing": "experts"}, "sharing 'experts' gives experts one basis"),
        (
            {
                "objective": {"name": "input-aware", "metric": {"name": "fisher", "token_weights": "gradient"}},
                "allocation": "curvature",
            },
            "a metric with token_weights 'gradient'",
        ),
    ],
)
def test_what_does_not_go_with_a_preparation(wrong: dict[str, Any], why: str) -> None:
    data = {"objective": "input-aware", **wrong}
    with pytest.raises(RecipeError, match=f"Preparation 'block' .*{why}.*Use .*preparation=none"):
        Recipe.model_validate({**data, "preparation": "block"})
    assert Recipe.model_validate({**data, "preparation": {"name": "block", "epochs": 0}}).preparation.training is None


def test_a_preparation_is_of_weights_that_are_solved_for_behind_it() -> None:
    """Ranks by the equation of the original weights do not solve it for layers, then."""
    recipe = Recipe(objective=InputAware(), allocation=Curvature())
    assert recipe.solves_once
    prepared = recipe.model_copy(update={"preparation": BlockPreparation()})
    assert not prepared.ranks_are_of_the_same_equation
    assert not prepared.solves_once


def test_a_recipe_is_as_short_as_it_can_be() -> None:
    recipe = Recipe(objective=Weight())
    assert (recipe.allocation, recipe.structure, recipe.precision) == (Uniform(), TwoFactor(), Bits16())
    for wrong in ({"version": 2}, {"extra": 1}, {"objective": "no-such"}, {"allocation": {"name": "uniform", "x": 1}}):
        with pytest.raises((ValidationError, RecipeError)):
            Recipe.model_validate({"objective": "weight", **wrong})
    with pytest.raises(ValidationError, match="frozen"):
        recipe.name = "other"  # type: ignore[misc]


def test_what_looks_at_all_outputs_does_not_go_with_experts_of_one_basis() -> None:
    for wrong in ({"objective": "principal-outputs"}, {"objective": "input-aware", "allocation": "learned"}):
        with pytest.raises(RecipeError, match=r"outputs of one expert at a time.*Use sharing=separate"):
            Recipe.model_validate({**wrong, "sharing": "experts"})


@pytest.mark.parametrize(("sharing", "changes"), [(Shared(), True), (SharedByLoss(), False)], ids=["all", "by loss"])
def test_sharing_is_decided_before_or_by_a_measurement(sharing: Shared | SharedByLoss, changes: bool) -> None:
    recipe = Recipe(objective=InputAware(), sharing=sharing)
    assert recipe.sharing.fuses_all == changes
    assert recipe.sharing.measures != changes


def test_recipes_that_are_alike_are_equal_and_others_are_not() -> None:
    recipes = list(eckart.RECIPES.values())
    for one, other in itertools.combinations(recipes, 2):
        assert one != other
    assert len(set(recipes)) == len(recipes)
