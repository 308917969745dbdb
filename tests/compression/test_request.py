"""What a recipe asks for: its objective, its allocation, its refinement."""

from __future__ import annotations

import pytest

from eckart.compression.request import request_for_walk, request_of
from eckart.methods.allocation import ALLOCATIONS, Allocation, Curvature, Energy, Needs, Search, Uniform, ZeroSum
from eckart.methods.metric import Fisher
from eckart.methods.objectives import Anchored, InputAware, Objective, PrincipalOutputs, Weight
from eckart.methods.precision import Bits8
from eckart.methods.recipe import Recipe
from eckart.methods.refinement import BlockRefinement
from eckart.methods.structure import Dictionary, Hybrid, Pivoted, Structure, TwoFactor

SAMPLED, NEXT = Fisher(samples=4), Fisher(labels="next")
WEIGHTED = Fisher(token_weights="gradient")

METRICS = [
    # objective, allocation, refinement -> whose metric is measured
    (None, None, None, None),
    (NEXT, None, None, NEXT),
    (NEXT, SAMPLED, None, NEXT),
    (None, SAMPLED, None, SAMPLED),
    (None, None, SAMPLED, SAMPLED),
    (NEXT, None, SAMPLED, NEXT),
    (None, NEXT, SAMPLED, NEXT),
]


@pytest.mark.parametrize(("objective", "allocation", "refinement", "expected"), METRICS)
def test_one_metric_is_measured_whoever_asks(
    objective: Fisher | None, allocation: Fisher | None, refinement: Fisher | None, expected: Fisher | None
) -> None:
    recipe = Recipe(
        objective=InputAware() if objective is None else InputAware(metric=objective),
        allocation=Energy() if allocation is None else Curvature(metric=allocation),
        refinement=BlockRefinement() if refinement is None else BlockRefinement(metric=refinement),
    )
    found = request_of(recipe)
    assert found.metric == expected
    assert (Needs.CURVATURE in found.needs) == (allocation is not None)


@pytest.mark.parametrize("name", ALLOCATIONS)
@pytest.mark.parametrize("objective", [Weight(), InputAware(), Anchored()], ids=lambda choice: choice.name)
def test_every_allocator_gets_what_it_needs_of_the_recipe_s_own_components(name: str, objective: Objective) -> None:
    allocation = ALLOCATIONS[name].model_validate({})
    structure: Structure = Hybrid() if allocation.chooses_bases else Pivoted()
    recipe = Recipe(objective=objective, structure=structure, precision=Bits8())
    if allocation.chooses_sparsities:
        recipe = Recipe(objective=objective, structure=(structure := Dictionary()))
    found = request_of(recipe.model_copy(update={"allocation": allocation}))
    assert found.objective == objective
    assert found.structure == structure
    assert found.needs == allocation.needs
    assert (found.metric is not None) == (Needs.CURVATURE in allocation.needs or allocation.chooses_bases)
    assert found.keep_metrics == allocation.chooses_bases
    fits = allocation.chooses_sparsities and objective.needs_data
    assert found.keep_moments == (allocation.chooses_bases or fits)
    assert not found.keep_inputs  # which is for models that are made of what was measured
    assert not found.keep_bases or allocation.truncates


def test_searching_keeps_the_bases_that_it_truncates_in() -> None:
    assert request_of(Recipe(objective=InputAware(), allocation=Search())).keep_bases
    assert not request_of(Recipe(objective=InputAware(), allocation=Energy())).keep_bases


def test_an_equation_that_is_solved_before_anything_is_compressed_is_kept() -> None:
    weighted = Recipe(objective=InputAware(metric=WEIGHTED), allocation=Curvature())
    assert request_of(weighted).keep_bases
    assert request_of(weighted).weighs_tokens
    equal = Recipe(objective=InputAware(metric=Fisher()), allocation=Curvature())
    assert not request_of(equal).keep_bases


@pytest.mark.parametrize(
    ("objective", "allocation", "structure", "keeps"),
    [
        (InputAware(), Energy(), TwoFactor(), (True, True)),
        (InputAware(metric=WEIGHTED), Curvature(), Pivoted(), (True, True)),
        (InputAware(), Curvature(), Hybrid(), (False, True)),  # what is of low rank depends on the base
        (InputAware(), Uniform(), TwoFactor(), (False, False)),  # nothing is solved before the walk
        (InputAware(), ZeroSum(stages=2), TwoFactor(), (True, False)),  # which ends with other weights
        (Weight(), Energy(), TwoFactor(), (False, False)),
        (Anchored(), Energy(), TwoFactor(), (False, False)),  # which looks at the compressed model
        (PrincipalOutputs(), Energy(), TwoFactor(), (False, False)),
    ],
)
def test_what_the_ranks_were_found_by_is_kept_where_the_layers_are_made_of_it(
    objective: Objective, allocation: Allocation, structure: Structure, keeps: tuple[bool, bool]
) -> None:
    found = request_for_walk(Recipe(objective=objective, allocation=allocation, structure=structure))
    assert (found.keep_bases, found.keep_moments) == keeps
