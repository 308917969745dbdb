from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.conftest import make_model
from tests.run.check import architectures
from transformers import PreTrainedModel

import eckart
from eckart.blocks.blockwise_model import BlockwiseModel
from eckart.blocks.onload import ResidentWeights, WeightSource
from eckart.blocks.overridden_weights import OverriddenWeights
from eckart.blocks.tensor_cache import ScratchSpace
from eckart.compression.plan import make_plan
from eckart.data.calibration import Calibration
from eckart.methods.recipes.loader import load_recipe
from eckart.run.memory import KERNELS, Memory, _solver_numbers, memory_of_run


def of_run(
    model: PreTrainedModel,
    recipe: str,
    samples: int = 8,
    *,
    device: str = "cpu",
    weights: WeightSource | None = None,
    compute: torch.dtype = torch.float32,
) -> Memory:
    chosen = eckart.RECIPES[recipe]
    calibration = Calibration(torch.zeros(samples, 32, dtype=torch.int64), "x", 0) if chosen.needs_data else None
    plan = make_plan(model, chosen, 0.6)
    where, scratch = weights or ResidentWeights(), ScratchSpace()
    blockwise = BlockwiseModel(model, plan.blocks, where, torch.device(device), scratch, calibration)
    return memory_of_run(blockwise, plan, 1000, compute=compute)


@pytest.mark.parametrize(
    ("recipe", "widths"),
    # Streams in front of a block and behind it, of width 32; the inputs of groups of widths 32, 32, 32 and 48.
    [("svd-llm", 2 * 32), ("dobi-shift", 2 * 32), ("aa-svd", 4 * 32), ("aa-svd-layer", 4 * 32 + 144), ("svd", 0)],
)
def test_streams_and_inputs_are_counted(recipe: str, widths: int, llama: PreTrainedModel) -> None:
    assert of_run(llama, recipe, 8).streams == 4 * 8 * 32 * widths


def test_streams_are_in_the_dtype_of_the_model(llama: PreTrainedModel) -> None:
    assert of_run(llama.to(torch.bfloat16), "svd-llm").streams == 2 * 8 * 32 * 2 * 32


def test_a_model_in_memory_is_not_copied_but_one_on_disk_is_read(llama: PreTrainedModel) -> None:
    parameters = sum(parameter.numel() for parameter in llama.model.layers[0].parameters())
    assert of_run(llama, "svd").weights == 0
    assert (
        of_run(llama, "svd", weights=OverriddenWeights(ResidentWeights(), llama, {})).weights == 8 * parameters
    )  # as read, and as used
    assert of_run(llama.to(torch.bfloat16), "svd").weights == 4 * parameters


def test_kernels_of_many_shapes_are_counted_where_experts_are_run_in_16_bits() -> None:
    mixture, decoder = (
        model.to(torch.bfloat16) for model in (architectures.made(architectures.mixtral), make_model("llama"))
    )
    for model, kernels in ((mixture, KERNELS), (decoder, 0)):
        for device, compute in (("cpu", torch.bfloat16), ("cpu", torch.float32), ("meta", torch.bfloat16)):
            found = of_run(model.to(torch.bfloat16), "svd-llm", device=device, compute=compute).statistics
            assert found // KERNELS == (kernels > 0 and (device, compute) == ("cpu", torch.bfloat16))


def test_training_holds_four_numbers_a_weight_and_three_states(llama: PreTrainedModel) -> None:
    plan = make_plan(llama, eckart.RECIPES["aa-svd"], 0.6)
    block = plan.blocks[0]
    factored = sum((plan.ranks[t.path] or 0) * sum(t.shape) - t.size for t in block.linears)
    trained = sum(parameter.numel() for parameter in block.module.parameters()) + factored
    assert of_run(llama, "aa-svd").training == trained * 4 * (4 + 3)
    assert of_run(llama, "svd-llm").training == 0


def test_a_preparation_holds_the_block_and_nine_numbers_a_weight_that_is_cut(llama: PreTrainedModel) -> None:
    plan = make_plan(llama, eckart.RECIPES["prehab"], 0.6)
    block = plan.blocks[0]
    cut = sum(ref.size for ref in block.linears if plan.ranks[ref.path])
    roots = sum(group.linears[0].in_features ** 2 for group in block.groups)
    held = 4 * (sum(parameter.numel() for parameter in block.module.parameters()) + 9 * cut) + 24 * roots
    assert of_run(llama, "prehab").training == held


def test_an_accelerator_takes_the_work_and_the_host_the_streams(llama: PreTrainedModel) -> None:
    here, there = of_run(llama, "aa-svd-anchored"), of_run(llama, "aa-svd-anchored", device="meta")
    assert here.device == 0
    assert there.device == there.working > 0
    assert there.host < here.host
    assert here.host == here.streams + here.working


def test_limits() -> None:
    rest: dict[str, Any] = {"student": 0, "student_activations": 0, "blocks": 1}
    memory = Memory(10, 100, 0, 5, 0, 0, 0, **rest, on_host=True)
    assert memory.fits(0, 115, None)
    assert not memory.fits(1, 115, None)
    assert not Memory(10, 100, 0, 5, 0, 0, 0, **rest, on_host=False).fits(0, None, 14)


def test_a_student_in_files_is_one_block_at_a_time() -> None:
    memory = Memory(0, 100, 0, 5, 0, 0, 40, student=80, student_activations=60, blocks=10, on_host=True)
    assert memory.host == 100 + 80 + 60
    assert memory.with_less(in_memory=True, checkpoint=True).host == 100 + 80 + 6
    assert memory.with_less(in_memory=False, checkpoint=True).host == max(8 + 6, 20)


@pytest.mark.parametrize(
    ("recipe", "overrides", "weights", "rooted"),
    [
        ("svd-llm", [], 6, False),
        ("svd-llm", ["allocation=energy"], 6, True),  # which asks for all singular values
        ("svd-llm", ["precision=8-bit"], 8, True),
        ("aa-svd-layer", [], 8, True),
        ("svd", [], 8, False),
    ],
)
def test_a_root_is_counted_where_one_is_found(
    recipe: str, overrides: list[str], weights: int, rooted: bool, llama: PreTrainedModel
) -> None:
    plan = make_plan(llama, load_recipe(recipe, overrides, 0.6), 0.6)
    (down,) = (ref for ref in plan.blocks[0].linears if ref.name == "mlp.down_proj")
    assert down.shape == (32, 48)
    found = 3 * 32**2 + weights * 32 * 48
    assert _solver_numbers(down, plan.recipe) == found + (2 * 48**2 if rooted else 0)
