"""Which linears are solved from a sketch, and what recipes say of it."""

from __future__ import annotations

import pytest

from eckart.errors import RecipeError
from eckart.methods.recipe import Recipe
from eckart.methods.recipes.loader import load_recipe
from eckart.methods.solver import LEAST_MORE, Exact, Randomized


def test_exact_has_no_sketch() -> None:
    assert Exact().sketch((4096, 4096), 1, "q") is None
    assert load_recipe("svd-llm").solver == Exact()


@pytest.mark.parametrize(
    ("rank", "columns"),
    [(1, 1 + LEAST_MORE), (32, 32 + LEAST_MORE), (100, 125), (101, 127), (320, 400), (321, None), (1000, None)],
)
def test_a_sketch_is_a_share_larger_than_the_rank_and_small_beside_the_linear(rank: int, columns: int | None) -> None:
    for shape in ((1000, 1000), (1000, 3000), (3000, 1000)):
        found = Randomized().sketch(shape, rank, "q")
        assert (None if found is None else found.columns) == columns
    whole = Randomized(limit=1).sketch((1000, 1000), 800, "q")
    assert whole is not None
    assert (whole.columns, whole.iterations) == (1000, 3)


def test_each_linear_has_random_numbers_of_its_own() -> None:
    seeds = [sketch.seed for path in "aab" if (sketch := Randomized().sketch((99, 99), 2, path)) is not None]
    assert seeds[0] == seeds[1] != seeds[2]


def test_the_usual_choice_is_not_written_and_another_is() -> None:
    assert "solver" not in load_recipe("svd-llm").to_yaml()
    assert load_recipe("svd-llm", ["solver=exact"]).solver == Exact()
    recipe = load_recipe("svd-llm", ["solver=randomized", "solver.iterations=2", "solver.oversampling=0.5"])
    assert recipe.solver == Randomized(iterations=2, oversampling=0.5)
    assert "solver" in recipe.to_yaml()
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
    assert load_recipe(recipe, ["solver=exact"]).solver == Exact()
    assert load_recipe(recipe, ["solver.limit=1"]).solver == Randomized(iterations=2, oversampling=0.5, limit=1)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["solver=exct"], "Unknown solver 'exct' after --set; did you mean 'exact'"),
        (["solver.iterations=2"], "no field 'solver.iterations'"),
        (["solver=randomized", "solver.iteration=2"], "no field 'solver.iteration'; did you mean 'solver.iterations'"),
        (["solver=randomized", "solver.limit=2"], "'solver.randomized.limit'.*less than or equal to 1"),
        (["solver=randomized", "solver.iterations=-1"], "greater than or equal to 0, found -1"),
        (["solver=randomized", "objective=principal-outputs"], "'principal-outputs' solves no equation. Use solver=ex"),
    ],
)
def test_what_cannot_be_is_told(overrides: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe("svd-llm", overrides)


@pytest.mark.parametrize("label", ["eckart-fast", "zs-svd", "io-svd", "svd-llm-v2"])
def test_what_is_solved_once_and_for_all_ranks_has_no_use_for_it(label: str) -> None:
    with pytest.raises(RecipeError, match=r"ranks of allocation .* follow from its whole solution. Use solver=exact"):
        load_recipe(label, ["solver=randomized"])
    # Of another objective, beside a base and for linears that are fused the equation is solved again.
    for other in ("objective=anchored", "structure=hybrid", "sharing=shared", "allocation=uniform"):
        if label != "eckart-fast":
            assert load_recipe(label, [other, "solver=randomized"]).solver == Randomized()
