"""What is timed of a run, and how timings of smaller matrices are scaled; by a clock that says what it is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

import eckart
from eckart.compression.plan import Plan, make_plan
from eckart.maths.lowrank import solve
from eckart.methods.objectives import Objective
from eckart.methods.recipes.loader import load_recipe
from eckart.run.timing import factorisation_seconds, solution_seconds

CPU = torch.device("cpu")
# Of the tiny Llama: the inputs of q, k and v, of o, and of gate and up are 32 wide, those of down 48.
GROUPS, LINEARS, WIDTHS, SHAPES = 4, 7, 2, 4
TALL = 1  # groups, in which more outputs than inputs make the root the way to the smaller Gram matrix: gate and up


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """A clock by which everything takes a second; what is timed is run, and noted down."""
    runs: list[object] = []

    def seconds_of(run: Callable[[], object], device: torch.device) -> float:
        run()
        runs.append(run)
        return 1.0

    monkeypatch.setattr("eckart.run.timing.seconds_of", seconds_of)
    return runs


def plan_of(model: PreTrainedModel, label: str, keep: float = 0.5) -> Plan:
    name, *overrides = label.split("+")
    return make_plan(model, load_recipe(name, overrides), keep)


def with_ranks(plan: Plan, rank: int) -> Plan:
    return replace(plan, ranks=dict.fromkeys(plan.ranks, rank))


@pytest.mark.parametrize("label", ["svd-llm-v2", "zs-svd", "io-svd", "asvd"])
def test_each_shape_is_timed_once_and_counted_for_each_layer(
    label: str, llama: PreTrainedModel, timed: list[object]
) -> None:
    """So is the root of each width, counted for the groups in which a layer of that shape asks for it."""
    plan = plan_of(llama, label)
    found = solution_seconds(plan.blocks[0], plan.recipe, CPU)
    assert LINEARS + TALL <= found <= LINEARS + GROUPS
    assert SHAPES + 1 <= len(timed) <= SHAPES + WIDTHS
    if label == "asvd":  # whose root is there from the start
        assert found == LINEARS + GROUPS


def test_layers_with_token_weights_of_their_own_have_roots_of_their_own(
    llama: PreTrainedModel, timed: list[object]
) -> None:
    plan = plan_of(llama, "eckart-fast")
    own = solution_seconds(plan.blocks[0], plan.recipe, CPU) - LINEARS
    shared = solution_seconds(plan.blocks[0], plan_of(llama, "svd-llm-v2").recipe, CPU) - LINEARS
    assert own >= shared + 1  # gate and up have one each


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("svd-llm", LINEARS + TALL),
        ("aa-svd-anchored", LINEARS + GROUPS),  # what is least squares is found by a root
        ("svd-llm+objective.affine=true", LINEARS + GROUPS),  # what is about the mean is factored at once
        ("eckart-fast", LINEARS),  # those of layers that were solved before are done
    ],
)
def test_roots_are_counted_where_a_walk_asks_for_them(
    label: str, expected: int, llama: PreTrainedModel, timed: list[object]
) -> None:
    plan = plan_of(llama, label)
    assert factorisation_seconds(plan.blocks[0], with_ranks(plan, 4), CPU) == expected


@pytest.mark.parametrize(
    ("label", "steps"),
    [
        ("svd-llm", ["solve 4", "error"]),
        ("svd-llm+solver=randomized+solver.limit=1", ["solve 4", "sketch", "error"]),
        ("io-svd+structure=hybrid", ["solve 4"] * 3 + ["error"]),
        ("io-svd", ["error"]),  # it was solved for the ranks
    ],
)
def test_what_is_timed_is_what_a_walk_does(
    label: str, steps: list[str], llama: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    monkeypatch.setattr("eckart.run.timing.seconds_of", lambda run, device: (run(), 1.0)[1])

    def noted(place: str, note: Callable[..., str]) -> None:
        module, name = place.rsplit(".", 1)
        real = getattr(import_module(module), name)

        def call(*arguments: Any, **named: Any) -> Any:
            done.append(note(*arguments))
            return real(*arguments, **named)

        monkeypatch.setattr(place, call)

    def rank(*arguments: Any) -> str:
        return f"solve {arguments[4] if len(arguments) > 4 else None}"

    noted("eckart.compression.sketched.solve", rank)
    noted("eckart.methods.structure.fitting.hybrid.solve", rank)
    noted("eckart.maths.lowrank.leading_left", lambda *arguments: "sketch")
    noted("eckart.run.timing.relative_error", lambda *arguments: "error")
    # The default of a function is bound where it is defined.
    known = Objective.solution.__kwdefaults__ or {}
    real = known["solver"]

    def solved(*arguments: Any) -> Any:
        done.append(rank(*arguments))
        return real(*arguments)

    monkeypatch.setitem(known, "solver", solved)
    plan = plan_of(llama, label)
    factorisation_seconds(plan.blocks[0], with_ranks(plan, 4), CPU)
    assert done == SHAPES * steps


def test_what_has_no_rank_is_solved_as_a_measurement_does(
    llama: PreTrainedModel, timed: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[tuple[Any, ...]] = []

    def note(*arguments: Any) -> Any:
        found.append(arguments)
        return solve(*arguments)

    monkeypatch.setattr("eckart.run.timing.solve", note)
    plan = plan_of(llama, "io-svd+structure=hybrid+structure.base.group=8")
    solution_seconds(plan.blocks[0], plan.recipe, CPU)
    assert len(found) == SHAPES
    for _, target, weight, metric in found:
        assert target is None
        assert metric is not None
        assert weight.abs().max() < 1  # what the base leaves of it


@pytest.mark.parametrize("dense", [["q", "k", "v"], ["o"], ["down"]])
def test_layers_that_stay_as_they_are_take_no_time(
    dense: list[str], llama: PreTrainedModel, timed: list[object]
) -> None:
    plan = plan_of(llama, "svd-llm")
    ranks = {path: None if path.rpartition(".")[2].removesuffix("_proj") in dense else 4 for path in plan.ranks}
    found = factorisation_seconds(plan.blocks[0], replace(plan, ranks=ranks), CPU)
    assert found == TALL + LINEARS - len(dense)
    assert factorisation_seconds(plan.blocks[0], replace(plan, ranks=dict.fromkeys(ranks)), CPU) == 0


def test_larger_matrices_are_scaled_by_their_operations(
    llama: PreTrainedModel, timed: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A root costs the cube of its width, a decomposition of (m, n) costs m n min(m, n)."""
    monkeypatch.setattr("eckart.run.timing.LARGEST_SIDE", 16)
    plan = plan_of(llama, "aa-svd-anchored")
    roots = 3 * (32 / 16) ** 3 + (48 / 16) ** 3
    squares = 2 * 32**3 / 16**3  # q, o
    narrow = 2 * (16 * 32 * 16) / (8 * 16 * 8)  # k, v, at half the size
    tall = 2 * (48 * 32 * 32) / (24 * 16 * 16)  # gate, up
    down = (32 * 48 * 32) / (10 * 16 * 10)
    expected = roots + squares + narrow + tall + down
    assert factorisation_seconds(plan.blocks[0], with_ranks(plan, 4), CPU) == pytest.approx(expected)
    monkeypatch.setattr("eckart.run.timing.MOST_ROWS", 1)
    expected += 2 * (48 * 32 * 32) / (16 * 16 * 16) - tall  # no side longer than allowed
    asvd = plan_of(llama, "asvd")
    assert solution_seconds(asvd.blocks[0], asvd.recipe, CPU) == pytest.approx(expected)


def test_timings_leave_the_model_and_the_random_numbers_alone(llama: PreTrainedModel) -> None:
    before = {name: tensor.clone() for name, tensor in llama.state_dict().items()}
    state = torch.get_rng_state()
    plan = plan_of(llama, "svd-llm-v2")
    assert solution_seconds(plan.blocks[0], plan.recipe, CPU) > 0
    assert factorisation_seconds(plan.blocks[0], replace(plan, ranks=dict.fromkeys(plan.ranks, 4)), CPU) > 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in llama.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(isinstance(module, eckart.LowRankLinear) for module in llama.modules())
