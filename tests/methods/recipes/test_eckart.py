from __future__ import annotations

import copy

import pytest
import torch
from tests.conftest import make_model
from transformers import PreTrainedModel

import eckart
from eckart.data.calibration import Calibration
from eckart.errors import RecipeError
from eckart.methods.recipes.eckart import BY_BUDGET, for_budget
from eckart.methods.recipes.loader import load_recipe
from eckart.methods.recipes.published import DEFAULT_KEEP, RECIPES
from eckart.sweep.build import build
from eckart.sweep.case import cases_of
from eckart.sweep.statistics import collect


@pytest.mark.parametrize("name", BY_BUDGET)
def test_there_is_one_for_every_budget(name: str) -> None:
    shares = [least for least, _ in BY_BUDGET[name]]
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] == 0
    for least, recipe in BY_BUDGET[name]:
        assert recipe.name == name
        assert recipe == type(recipe).model_validate(recipe.model_dump())  # its choices go together
        assert for_budget(name, least or 0.001) is recipe
        assert load_recipe(name, keep=least or 0.001) is recipe
    assert RECIPES[name] is load_recipe(name) is load_recipe(name, keep=DEFAULT_KEEP)


def test_ours_fill_the_budget_and_what_is_named_after_a_paper_does_not() -> None:
    ours = {*BY_BUDGET, "int8", "int4", "gptq", "hybrid-anchored"}  # no paper has ranks for those
    for name, recipe in RECIPES.items():
        assert recipe.allocation.fill_budget == (name in ours), name
    assert all(recipe.allocation.fill_budget for variants in BY_BUDGET.values() for _, recipe in variants)
    # What was stored before there was a choice was made so.
    assert load_recipe("svd-llm", ["allocation=zero-sum"]).allocation.fill_budget


def test_ours_guard_their_training() -> None:
    for variants in BY_BUDGET.values():
        for _, recipe in variants:
            for plan in (recipe.refinement, recipe.distillation):
                if plan.needs_data:
                    assert plan.model_dump()["held_out"] > 0
                    assert plan.model_dump()["shuffle"]


def test_the_size_decides_and_overrides_come_after_it() -> None:
    assert load_recipe("eckart", keep=0.95).refinement.name == "none"
    assert load_recipe("eckart", keep=0.6).refinement.name == "block"
    changed = load_recipe("eckart", ["refinement.epochs=3"], keep=0.6)
    assert changed.refinement.model_dump()["epochs"] == 3
    with pytest.raises(RecipeError, match="epochs"):
        load_recipe("eckart", ["refinement.epochs=3"], keep=0.95)


@pytest.mark.parametrize(
    ("keep", "objective", "weighs", "floor"),
    [
        (0.8, "input-aware", True, 0),
        (0.6, "blended", True, 0.1),
        (0.3, "blended", True, 0.1),
        (0.2, "input-aware", True, 0),
    ],
)
def test_the_fast_one_depends_on_how_much_is_kept(
    keep: float, objective: str, weighs: bool, floor: float, tokens: torch.Tensor
) -> None:
    report = eckart.compress(make_model("llama"), "eckart-fast", keep, tokens, overrides=["allocation.multiple=1"])
    assert report.keep <= keep
    assert report.recipe.objective.name == objective
    assert (report.recipe.objective.output_metric is not None) == weighs
    assert report.recipe.allocation.floor == floor


@pytest.mark.parametrize(("keep", "structure"), [(0.8, "two-factor"), (0.45, "hybrid"), (0.27, "pivoted")])
def test_the_quantised_one_keeps_to_its_budget(keep: float, structure: str, tokens: torch.Tensor) -> None:
    # Ranks of any size, since the matrices are small.
    report = eckart.compress(make_model("llama"), "eckart-q", keep, tokens, overrides=["allocation.multiple=1"])
    assert report.keep <= keep
    assert report.recipe.structure.name == structure


def test_a_sweep_takes_the_one_for_each_size() -> None:
    cases = [case for case in cases_of(["eckart-q"], [0.8, 0.4], [16]) if case.recipe is not None]
    found = {case.keep: (case.recipe.structure.name, case.samples) for case in cases if case.recipe is not None}
    assert found == {0.8: ("two-factor", None), 0.4: ("hybrid", 16)}


def test_all_that_is_kept_is_kept_as_it_was(llama: PreTrainedModel, tokens: torch.Tensor) -> None:
    before = copy.deepcopy(llama)
    report = eckart.compress(llama, "eckart", 1.0, tokens)
    assert report.keep == 1.0
    for ours, theirs in zip(llama.parameters(), before.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_sizes_of_auto_share_one_collection_and_equal_single_runs(tokens: torch.Tensor) -> None:
    settings = ["allocation.multiple=1", f"allocation.bases={[{'name': f'{b}-bit', 'group': 16} for b in (8, 4, 2)]}"]
    sizes = (0.5, 0.36, 0.3, 0.25, 0.2)
    model = make_model("llama")
    label = "auto+" + "+".join(settings)
    cases = [case for case in cases_of([label], sizes, [16]) if case.recipe is not None]
    calibration = Calibration(tokens, "token ids", 0)
    recipes = {case.recipe: list(sizes) for case in cases if case.recipe is not None}
    collection = collect(model, recipes, calibration, torch.device("cpu"))
    assert len(recipes) == len(collection.measured) == 1
    for case in cases:
        assert case.recipe is not None
        made = build(model, case.recipe, case.keep, collection)
        alone = make_model("llama")
        report = eckart.compress(alone, "auto", case.keep, tokens, overrides=settings)
        assert made.kept == report.keep <= case.keep
        with torch.no_grad():
            torch.testing.assert_close(made.model(tokens).logits, alone(tokens).logits, rtol=1e-4, atol=1e-4)
