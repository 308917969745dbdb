"""What holds for every allocator."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.methods.allocation.helpers import LAYOUT, LINEARS, OWN, SHAPES, bytes_of, measured, statistics

from eckart.errors import EckartError
from eckart.methods.allocation import (
    ALLOCATIONS,
    Allocation,
    Curvature,
    Energy,
    LayerStatistics,
    Needs,
    Tolerance,
    Uniform,
)
from eckart.methods.allocation.base import OwnMeasurement, relative_energy
from eckart.methods.allocation.rank_budget import RankBudget, Ranks
from eckart.methods.metric import Fisher
from eckart.methods.objectives import InputAware
from eckart.methods.sensitivity.request import Request

KINDS = tuple(kind for kind in ALLOCATIONS.values() if not (kind.chooses_bases or kind.chooses_sparsities))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25)
@given(keep=st.floats(0.3, 0.99), multiple=st.sampled_from([1, 4, 8]), fused=st.booleans())
def test_the_budget_is_met_within_a_step(kind: type[Allocation], keep: float, multiple: int, fused: bool) -> None:
    ranks = kind.model_validate({"multiple": multiple, "fused_groups": fused}).ranks(
        OWN.get(kind, LINEARS), keep, LAYOUT
    )
    dense = sum(2 * math.prod(shape) for shape in SHAPES)
    assert bytes_of(ranks) <= keep * dense
    assert all(rank is None or rank % multiple == 0 for rank in ranks.values())
    if not fused:
        smallest_step = 2 * multiple * min(m + n for m, n in SHAPES)
        largest_jump = max(
            2 * m * n - 2 * (m + n) * (multiple * ((m * n - 1) // (m + n) // multiple)) for m, n in SHAPES
        )
        assert bytes_of(ranks) > keep * dense - max(smallest_step, 2 * multiple * 160, largest_jump)


@pytest.mark.parametrize("kind", KINDS)
def test_all_stay_dense_where_all_is_kept(kind: type[Allocation]) -> None:
    assert set(kind.model_validate({}).ranks(OWN.get(kind, LINEARS), 1.0, LAYOUT).values()) == {None}


@pytest.mark.parametrize("kind", KINDS)
def test_one_linear_alone_gets_the_largest_rank_that_fits(kind: type[Allocation]) -> None:
    ranks = kind.model_validate({"multiple": 1}).ranks(OWN.get(kind, LINEARS)[:1], 0.5, LAYOUT)
    assert ranks == {LINEARS[0].path: 16}


@pytest.mark.parametrize("kind", KINDS)
def test_a_floor_that_cannot_be_met_is_refused(kind: type[Allocation]) -> None:
    with pytest.raises(EckartError, match="smallest ranks allowed take"):
        kind.model_validate({"floor": 1.0}).ranks(OWN.get(kind, LINEARS), 0.5, LAYOUT)


@pytest.mark.parametrize("kind", KINDS)
def test_a_linear_too_small_to_factor_stays_dense(kind: type[Allocation]) -> None:
    tiny = replace(measured("layers.0.tiny", (2, 2)), own=OWN.get(kind, LINEARS)[0].own)
    linears = (tiny, *OWN.get(kind, LINEARS))
    assert kind.model_validate({}).ranks(linears, 0.6, LAYOUT)["layers.0.tiny"] is None


@pytest.mark.parametrize("kind", KINDS)
def test_not_filling_the_budget_gives_no_linear_more(kind: type[Allocation]) -> None:
    """One step down at most where the choice is above the budget; never a step up from the choice."""
    for keep in (0.8, 0.6, 0.45):
        allocation = kind.model_validate({"multiple": 1, "fill_budget": False})
        linears = OWN.get(kind, LINEARS)
        chosen = allocation.choose(RankBudget(linears, keep, LAYOUT, multiple=1))
        for linear in linears:
            rank = allocation.ranks(linears, keep, LAYOUT)[linear.path]
            limit = chosen[linear.path]
            assert limit is None or rank is None or rank <= limit


class Chosen(Allocation):
    """Looks at nothing, and says nothing of what a step is worth."""

    name: Literal["chosen"] = "chosen"

    chosen: dict[str, int | None]

    def choose(self, problem: RankBudget) -> Ranks:
        return self.chosen


def test_without_a_spectrum_steps_go_to_what_is_furthest_below_the_choice() -> None:
    """Of multiples of 8: 15 is rounded down by seven, 9 by one, and there is room for one step."""
    linears = tuple(LayerStatistics(name, (64, 64), 0, name) for name in "ab")
    assert Chosen(chosen={"a": 9, "b": 15}).ranks(linears, 0.375, LAYOUT) == {"a": 8, "b": 16}
    assert Chosen(chosen={"a": 15, "b": 9}).ranks(linears, 0.375, LAYOUT) == {"a": 16, "b": 8}
    assert Chosen(chosen={"a": None, "b": 8}).ranks(linears, 0.375, LAYOUT) == {"a": 16, "b": 8}


def test_with_a_spectrum_steps_go_where_they_save_most_of_the_energy() -> None:
    class WithSpectrum(Chosen):
        name: Literal["with-spectrum"] = "with-spectrum"  # type: ignore[assignment]
        needs: ClassVar[Needs] = Needs.SPECTRUM

    flat = statistics("flat", (64, 64), energy=torch.ones(64, dtype=torch.float64))
    steep = statistics("steep", (64, 64), energy=0.5 ** torch.arange(64, dtype=torch.float64))
    allocation = WithSpectrum(chosen={"flat": 8, "steep": 8})
    assert allocation.ranks((flat, steep), 0.5, LAYOUT) == {"flat": 24, "steep": 8}


def test_relative_energy_is_that_of_the_outputs_also_where_a_base_has_most_of_it() -> None:
    energy = torch.tensor([3.0, 1.0], dtype=torch.float64)
    assert relative_energy(statistics("x", (2, 2), energy=energy)).tolist() == [0.75, 0.25]
    assert relative_energy(statistics("x", (2, 2), energy=energy, output_energy=40.0)).tolist() == [0.075, 0.025]
    assert relative_energy(statistics("x", (2, 2), energy=0 * energy)).tolist() == [0, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_what_an_allocator_needs_is_what_it_looks_at(kind: type[Allocation]) -> None:
    """Statistics that it does not ask for are not there."""
    allocation = kind.model_validate({})
    asked = {
        Needs.SPECTRUM: ("energy", "tokens"),
        Needs.FIRST_ORDER: ("first_order",),
        Needs.CURVATURE: ("curvature",),
        Needs.SIMILARITY: ("similarity",),
    }
    names = [name for need, group in asked.items() if need in kind.needs for name in group]
    all_of_it = OWN.get(kind, LINEARS)
    few = tuple(
        LayerStatistics(x.path, x.shape, x.group, x.kind, own=x.own, **{name: getattr(x, name) for name in names})
        for x in all_of_it
    )
    assert allocation.ranks(few, 0.6, LAYOUT) == allocation.ranks(all_of_it, 0.6, LAYOUT)
    looks = kind.needs & ~Needs.SPECTRUM or allocation.own_measurement is not OwnMeasurement.NONE
    assert allocation.needs_data == (bool(looks) and kind is not Tolerance)  # which looks at weights


def test_gradients_of_the_objective_come_first() -> None:
    """Its metric is what curvature is measured by, if it has one; else that of the allocator, if it asks for any."""
    own, other = Fisher(labels="next"), Fisher(top_k=3)
    bare = Request(InputAware())
    assert Curvature(metric=own).ask(bare).metric == own
    assert Curvature(metric=own).ask(replace(bare, metric=other)).metric == other
    assert Energy().ask(bare) == replace(bare, needs=Needs.SPECTRUM)
    assert Uniform().ask(bare) == bare
