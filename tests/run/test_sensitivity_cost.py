"""How long a measurement is said to take: by the runs of blocks that it does make."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from eckart.blocks.blockwise_model import BlockwiseModel
from eckart.blocks.onload import ResidentWeights
from eckart.blocks.tensor_cache import ScratchSpace
from eckart.compression.allocate import allocate
from eckart.compression.plan import Plan, make_plan
from eckart.data.calibration import BATCH_TOKENS, Calibration
from eckart.methods.recipes.loader import load_recipe
from eckart.methods.sensitivity.cost import StepSeconds
from eckart.run.sensitivity_cost import measurement_seconds

CPU = torch.device("cpu")
STEPS = StepSeconds(
    block=0.0, moments=0.0, head=0.0, batch_tokens=12 * 24, blocks=3, shapes=(), samples=12, length=24, device=CPU
)  # of 12 samples in one batch


@pytest.fixture(autouse=True)
def solution(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the equations of a block take 100 seconds."""
    monkeypatch.setattr("eckart.run.sensitivity_cost.solution_seconds", lambda block, recipe, device: 100.0)


def plan_of(model: PreTrainedModel, label: str, keep: float = 0.6) -> Plan:
    name, *overrides = label.split("+")
    return make_plan(model, load_recipe(name, overrides), keep)


def seconds(model: PreTrainedModel, label: str, steps: StepSeconds | None) -> float:
    plan = plan_of(model, label)
    return measurement_seconds(plan, plan.blocks[0], steps, CPU)


def work(model: PreTrainedModel, label: str, batches: int) -> float:
    """Measure so many batches, and return how long the blocks behind the first one run."""
    runs = {True: 0.0, False: 0.0}

    def count(module: nn.Module, arguments: object, output: torch.Tensor) -> None:
        runs[torch.is_grad_enabled()] += output.shape[:2].numel() / BATCH_TOKENS

    tokens = torch.randint(256, (batches * BATCH_TOKENS // 32, 32), generator=torch.Generator().manual_seed(1))
    plan = plan_of(model, label)
    original = BlockwiseModel(
        model, plan.blocks, ResidentWeights(), CPU, ScratchSpace(), Calibration(tokens, "token ids", 0)
    )
    # Of a layer in each, since blocks are also called without being run; the first one is run once more, for what it is
    # handed, which is little in a model of many.
    firsts = [model.get_submodule(block.linears[0].path) for block in plan.blocks[1:]]
    hooks = [first.register_forward_hook(count) for first in firsts]
    allocate(original, plan)
    for hook in hooks:
        hook.remove()
    return runs[False] + 3 * runs[True]  # a run with gradients and its way back take about as long as three


@pytest.mark.parametrize("label", ["svd-llm-v2", "adasvd", "zs-svd", "io-svd", "eckart-fast"])
def test_it_is_the_time_of_the_blocks_that_are_run(label: str, llama: PreTrainedModel) -> None:
    def told(batches: int) -> float:
        steps = replace(STEPS, block=1.0, batch_tokens=BATCH_TOKENS, samples=batches * BATCH_TOKENS // 32, length=32)
        return seconds(llama, label, steps)

    # How blocks are called is found out once, however many batches there are.
    assert (told(2) - told(1)) * 2 / 3 == pytest.approx(work(llama, label, 2) - work(llama, label, 1))


@pytest.mark.parametrize("label", ["svd-llm", "svd", "int8", "aa-svd"])
def test_where_ranks_follow_from_no_measurement_it_is_nothing(label: str, llama: PreTrainedModel) -> None:
    assert seconds(llama, label, replace(STEPS, block=1.0, moments=1.0, head=1.0)) == 0


def test_at_the_whole_size_nothing_is_measured(llama: PreTrainedModel) -> None:
    plan = plan_of(llama, "zs-svd", keep=1.0)
    assert measurement_seconds(plan, plan.blocks[0], replace(STEPS, block=1.0), CPU) == 0


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("adasvd", 0),  # looks at hidden states only
        ("svd-llm-v2", 3),  # of 3 blocks
        ("zs-svd", 3),
        # Beside those of inputs, each linear's output gradients have moments: 7 linears in 4 groups.
        ("io-svd", 3 + 3 * 7 / 4),
        # And each linear has moments of inputs of its own.
        ("eckart-fast", 3 + 2 * 3 * 7 / 4),
    ],
)
def test_moments_are_summed_where_they_are_asked_for(label: str, expected: float, llama: PreTrainedModel) -> None:
    found = seconds(llama, label, replace(STEPS, moments=1.0)) - seconds(llama, label, None)
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(
    ("label", "expected"),
    [("svd-llm-v2", 0), ("zs-svd", 3), ("io-svd", 3), ("eckart-fast", 3), ("zs-svd+objective.metric=fisher", 3 + 3)],
)
def test_the_head_is_run_there_and_back_for_each_kind_of_labels(
    label: str, expected: int, llama: PreTrainedModel
) -> None:
    found = seconds(llama, label, replace(STEPS, head=1.0)) - seconds(llama, label, None)
    assert found == expected


@pytest.mark.parametrize(("label", "expected"), [("adasvd", 0), ("svd-llm-v2", 300), ("zs-svd", 300)])
def test_equations_are_solved_for_each_block_where_spectra_are_wanted(
    label: str, expected: int, llama: PreTrainedModel
) -> None:
    assert seconds(llama, label, None) == expected
    assert seconds(llama, label, STEPS) == expected


def test_twice_the_tokens_take_twice_as_long(llama: PreTrainedModel) -> None:
    steps = replace(STEPS, block=1.0, moments=0.5, head=0.25)
    for label in ("adasvd", "svd-llm-v2", "io-svd"):
        alone = seconds(llama, label, None)
        once, twice = (seconds(llama, label, replace(steps, samples=n)) - alone for n in (12, 24))
        assert twice == pytest.approx(2 * once)


def test_an_allocation_that_walks_several_times_takes_as_many_times_as_long(llama: PreTrainedModel) -> None:
    steps = replace(STEPS, block=1.0)
    whole = seconds(llama, "zs-svd", steps)
    for stages in (2, 5):
        assert seconds(llama, f"zs-svd-staged+allocation.stages={stages}", steps) == stages * whole


def test_which_groups_share_a_basis_is_found_by_two_measurements_before(llama: PreTrainedModel) -> None:
    steps = replace(STEPS, block=1.0)
    assert seconds(llama, "svd-llm-v2+sharing=by-loss", steps) == 3 * seconds(llama, "svd-llm-v2", steps)
