"""What will be done, known before anything is measured."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from tests.conftest import CONFIGS, make_model
from torch import nn
from transformers import PreTrainedModel

import eckart
from eckart.blocks.onload import ResidentWeights
from eckart.compression.plan import blocks_for, check_keep, make_plan
from eckart.data.calibration import calibrate
from eckart.errors import EckartError, UnsupportedModelError
from eckart.layers import fused_layers


def recipe(*overrides: str) -> eckart.Recipe:
    return eckart.load_recipe("svd", ["allocation.multiple=1", *overrides])


@pytest.mark.parametrize("kind", CONFIGS)
def test_all_linears_of_all_blocks_have_a_uniform_rank(kind: str) -> None:
    model = make_model(kind)
    plan = make_plan(model, recipe(), 0.5)
    outside = (model.get_input_embeddings(), model.get_output_embeddings())
    linears = [
        path
        for path, module in model.named_modules()
        if (isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D") and module not in outside
    ]
    assert sorted(ref.path for ref in plan.linears) == sorted(linears)
    assert plan.parameters == sum(parameter.numel() for parameter in model.parameters())
    for ref in plan.linears:
        assert plan.ranks[ref.path] == math.floor(0.5 * ref.size / sum(ref.shape))


def test_parameters_that_are_not_saved_do_not_count() -> None:
    model = make_model("llama")
    model._keys_to_ignore_on_save = ["model.norm.weight"]
    everything = sum(parameter.numel() for parameter in model.parameters())
    assert make_plan(model, recipe(), 0.5).parameters == everything - 32


@pytest.mark.parametrize("overrides", [[], ["structure=pivoted"], ["precision=8-bit"], ["precision=4-bit"]], ids=str)
def test_bytes_are_those_of_the_model_that_it_ends_with(overrides: list[str], tokens: torch.Tensor) -> None:
    model = make_model("llama")
    plan = make_plan(model, recipe(*overrides), 0.5)
    report = eckart.compress(model, recipe(*overrides), 0.5, tokens)
    saved = sum(plan.recipe.structure.index_bytes(x.out_features) for x in report.layers if x.in_order)
    assert plan.bytes == report.whole_bytes_after + saved
    assert plan.ranks == {layer.path: layer.rank for layer in report.layers}


@pytest.mark.parametrize(("keep", "found"), [(0, "0"), (-0.1, "-0.1"), (1.01, "1.01"), (math.nan, "nan"), ("a", "str")])
def test_a_share_that_is_none_is_refused(keep: Any, found: str) -> None:
    with pytest.raises(EckartError, match=rf"above 0 and at most 1; found {found}\."):
        check_keep(keep)


@pytest.mark.parametrize("keep", [1, 1.0, 1e-9, True, torch.tensor(0.5).item()])
def test_a_share_that_is_one_is_taken(keep: float) -> None:
    check_keep(keep)


@pytest.mark.parametrize("setting", ["allocation.floor=0.9", "allocation.multiple=64"])
def test_what_cannot_be_done_is_refused_at_once_and_the_model_is_as_it_was(
    setting: str, llama: PreTrainedModel
) -> None:
    names = [name for name, _ in llama.named_parameters()]
    with pytest.raises(EckartError, match="smallest ranks allowed take"):
        make_plan(llama, recipe("sharing=shared", setting), 0.1)
    assert [name for name, _ in llama.named_parameters()] == names
    assert not fused_layers(llama)


def test_linears_that_share_a_basis_are_one(llama: PreTrainedModel) -> None:
    plan = make_plan(llama, recipe("sharing=shared"), 0.5)
    paths = [ref.path for ref in plan.blocks[0].linears]
    assert paths == [
        "model.layers.0.self_attn.q_proj.joint",
        "model.layers.0.self_attn.o_proj",
        "model.layers.0.mlp.gate_proj.joint",
        "model.layers.0.mlp.down_proj",
    ]
    # q, k and v have 32, 16 and 16 outputs.
    assert plan.blocks[0].linears[0].shape == (64, 32)


def test_blocks_are_looked_at_for_what_the_recipe_wants_to_know(llama: PreTrainedModel) -> None:
    def first(*overrides: str) -> tuple[set[str | None], int]:
        block = blocks_for(eckart.load_recipe("aa-svd-layer", overrides), llama, ResidentWeights())[0]
        return {ref.residual for ref in block.linears}, len(block.units)

    assert first() == ({None}, 0)
    assert len(first("objective.residual_anchoring=1")[0]) == 3
    assert first("structure=pivoted") == ({None}, 1)


def test_blocks_without_a_linear_are_no_blocks(llama: PreTrainedModel) -> None:
    for layer in llama.model.layers:
        layer.self_attn = layer.mlp = nn.Identity()
    with pytest.raises(UnsupportedModelError):
        make_plan(llama, recipe(), 0.5)


def test_short_samples_are_trained_on_in_larger_batches(llama: PreTrainedModel) -> None:
    """But for rows of a text, which are as long as was asked for."""
    generator = torch.Generator().manual_seed(0)
    samples = [{"input_ids": torch.randint(100, (1, length), generator=generator)} for length in (5, 6, 7, 6)]
    trained = {"preparation": "block", "refinement": "block", "distillation": "logits"}
    overrides = [part for place, name in trained.items() for part in (f"{place}={name}", f"{place}.batch=1")]
    trained_recipe = eckart.load_recipe("svd-llm", overrides)
    items, rows = (
        calibrate(source, samples=4, length=6, seed=0, model=llama)
        for source in (samples, torch.randint(100, (4, 6), generator=generator))
    )
    for calibration, batch in ((items, 86), (rows, 1), (None, 1)):
        recipe = make_plan(copy.deepcopy(llama), trained_recipe, 0.6, calibration=calibration).recipe
        assert recipe.preparation.training is not None
        assert recipe.preparation.training.batch == batch
        assert recipe.refinement.training is not None
        assert recipe.distillation.training is not None
        assert (recipe.refinement.training.batch, recipe.distillation.training.batch) == (batch, batch)
