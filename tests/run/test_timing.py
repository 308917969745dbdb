"""What is timed of a run, and how timings of smaller matrices are scaled; by a clock that says what it is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from transformers import PreTrainedModel

import eckart
from eckart.compression.plan import Plan, make_plan
from eckart.methods.recipes.loader import load_recipe
from eckart.run.timing import factorisation_seconds, solution_seconds

CPU = torch.device("cpu")
# Of the tiny Llama: the inputs of q, k and v, of o, and of gate and up are 32 wide, those of down 48.
GROUPS, LINEARS, WIDTHS, SHAPES = 4, 7, 2, 4


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


@pytest.mark.parametrize("label", ["svd-llm-v2", "zs-svd", "io-svd", "asvd"])
def test_each_shape_is_timed_once_and_counted_for_each_layer(
    label: str, llama: PreTrainedModel, timed: list[object]
) -> None:
    plan = plan_of(llama, label)
    assert solution_seconds(plan.blocks[0], plan.recipe, CPU) == GROUPS + LINEARS
    assert len(timed) == WIDTHS + SHAPES


def test_layers_with_token_weights_of_their_own_have_roots_of_their_own(
    llama: PreTrainedModel, timed: list[object]
) -> None:
    plan = plan_of(llama, "eckart-fast")
    assert solution_seconds(plan.blocks[0], plan.recipe, CPU) == LINEARS + LINEARS


@pytest.mark.parametrize(
    ("label", "expected"), [("svd-llm", GROUPS + LINEARS), ("aa-svd", GROUPS + LINEARS), ("eckart-fast", LINEARS)]
)
def test_factorisations_are_timed_alike(label: str, expected: int, llama: PreTrainedModel, timed: list[object]) -> None:
    """With one root a group; those of layers that were solved before are done."""
    plan = plan_of(llama, label)
    ranks: dict[str, int | None] = {path: rank or 4 for path, rank in plan.ranks.items()}
    assert factorisation_seconds(plan.blocks[0], replace(plan, ranks=ranks), CPU) == expected


@pytest.mark.parametrize("dense", [["q", "k", "v"], ["o"], ["down"]])
def test_layers_that_stay_as_they_are_take_no_time(
    dense: list[str], llama: PreTrainedModel, timed: list[object]
) -> None:
    plan = plan_of(llama, "svd-llm")
    ranks = {path: None if path.rpartition(".")[2].removesuffix("_proj") in dense else 4 for path in plan.ranks}
    found = factorisation_seconds(plan.blocks[0], replace(plan, ranks=ranks), CPU)
    assert found == GROUPS - 1 + LINEARS - len(dense)
    assert factorisation_seconds(plan.blocks[0], replace(plan, ranks=dict.fromkeys(ranks)), CPU) == 0


def test_larger_matrices_are_scaled_by_their_operations(
    llama: PreTrainedModel, timed: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A root costs the cube of its width, a decomposition of (m, n) costs m n min(m, n)."""
    monkeypatch.setattr("eckart.run.timing.LARGEST_SIDE", 16)
    plan = plan_of(llama, "svd-llm-v2")
    roots = 3 * (32 / 16) ** 3 + (48 / 16) ** 3
    squares = 2 * 32**3 / 16**3  # q, o
    narrow = 2 * (16 * 32 * 16) / (8 * 16 * 8)  # k, v, at half the size
    wide = 2 * (48 * 32 * 32) / (16 * 16 * 16)  # gate, up: no side longer than allowed
    down = (32 * 48 * 32) / (10 * 16 * 10)
    expected = roots + squares + narrow + wide + down
    assert solution_seconds(plan.blocks[0], plan.recipe, CPU) == pytest.approx(expected)
    ranks: dict[str, int | None] = dict.fromkeys(plan.ranks, 4)
    assert factorisation_seconds(plan.blocks[0], replace(plan, ranks=ranks), CPU) == pytest.approx(expected)


def test_timings_leave_the_model_and_the_random_numbers_alone(llama: PreTrainedModel) -> None:
    before = {name: tensor.clone() for name, tensor in llama.state_dict().items()}
    state = torch.get_rng_state()
    plan = plan_of(llama, "svd-llm-v2")
    assert solution_seconds(plan.blocks[0], plan.recipe, CPU) > 0
    assert factorisation_seconds(plan.blocks[0], replace(plan, ranks=dict.fromkeys(plan.ranks, 4)), CPU) > 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in llama.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(isinstance(module, eckart.LowRankLinear) for module in llama.modules())
