"""What of a model is reached; that the numbers add up on every plain model is tested in tests/run/check/test_run.py."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.conftest import make_model
from tests.run.check import architectures
from torch import nn
from transformers import PreTrainedModel

from eckart.blocks.block import Why
from eckart.blocks.discovery import find_blocks
from eckart.blocks.onload import ResidentWeights
from eckart.compression.model_check import LeftAlone
from eckart.compression.targets import without
from eckart.run.check.reach import Reach, reach_of


def reach(model: PreTrainedModel) -> Reach:
    return reach_of(model, find_blocks(model, ResidentWeights()))


def stays(found: Reach) -> dict[str, int]:
    sums: dict[str, int] = {}
    for left in found.left:
        sums[left.part] = sums.get(left.part, 0) + left.bytes
    return sums


def size(*modules: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for module in modules for p in module.parameters())


def test_what_stays_is_named_by_its_module_in_blocks_and_by_its_part_outside() -> None:
    model = make_model("llama")
    found = reach(model)
    layers = model.model.layers
    assert stays(found) == {
        "lm_head": size(model.lm_head),
        "model.embed_tokens": size(model.model.embed_tokens),
        "model.layers.*.input_layernorm": size(*(layer.input_layernorm for layer in layers)),
        "model.layers.*.post_attention_layernorm": size(*(layer.post_attention_layernorm for layer in layers)),
        "model.norm": size(model.model.norm),
    }
    assert list(stays(found).values()) == sorted(stays(found).values(), reverse=True)
    linears = [m for m in layers.modules() if isinstance(m, nn.Linear)]
    assert (found.model_bytes, found.reached_bytes) == (size(model), size(*linears))
    assert (found.unused, found.towers) == ([], [])


def test_a_tied_head_is_counted_once() -> None:
    model = make_model("qwen2")
    found = reach(model)
    assert "lm_head" not in stays(found)
    assert found.model_bytes == size(model) == found.reached_bytes + sum(stays(found).values())


def test_biases_of_layers_that_are_reached_stay() -> None:
    model = make_model("opt")
    found = reach(model)
    biases = [layer.fc1.bias for layer in model.model.decoder.layers]
    assert stays(found)["model.decoder.layers.*.fc1"] == sum(bias.nbytes for bias in biases)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bytes_are_those_of_the_stored_dtype(dtype: torch.dtype) -> None:
    model = make_model("llama")
    model.to(dtype)
    assert reach(model).block_bytes == size(model.model.layers)


def test_fused_experts_are_not_reached() -> None:
    model = architectures.made(architectures.mixtral)
    found = reach(model)
    (name,) = (place for place in stays(found) if place.endswith("experts"))
    assert name == "model.layers.*.mlp.experts"
    assert stays(found)[name] == size(*(layer.mlp.experts for layer in model.model.layers))
    assert found.reached_bytes < found.block_bytes / 2


def test_a_linear_that_is_never_called_is_named() -> None:
    model = make_model("llama")
    for layer in model.model.layers:
        layer.register_module("spare", nn.Linear(4, 4))
    found = reach(model)
    assert found.unused == ["model.layers.*.spare"]
    assert stays(found)["model.layers.*.spare"] == 3 * 4 * (16 + 4)


def test_blocks_beside_those_that_are_compressed_are_a_tower() -> None:
    model = architectures.made(lambda: architectures.llava(3))
    (tower,) = reach(model).towers
    assert tower == "model.vision_tower"  # and not a part of it
    assert size(model.get_submodule(tower)) == stays(reach(model))[tower]


def test_what_the_user_leaves_counts_as_what_could_be_reached() -> None:
    model = make_model("llama")
    blocks = find_blocks(model)
    everything = reach_of(model, blocks)
    left = {ref.path for block in blocks for ref in block.linears if ref.name.endswith("up_proj")}
    found = reach_of(model, without(blocks, left), left)
    ups = size(*(layer.mlp.up_proj for layer in model.model.layers))
    assert (found.ignored_bytes, found.reached_bytes) == (ups, everything.reached_bytes - ups)
    assert found.unused == []
    assert LeftAlone(part="model.layers.*.mlp.up_proj", what="linear layer", why="left by the recipe", bytes=ups) in (
        found.left
    )


def test_linears_that_are_run_and_stay_say_why() -> None:
    model = make_model("llama")
    model.model.layers[1].mlp.up_proj.weight = model.model.layers[0].mlp.up_proj.weight
    blocks = find_blocks(model)
    gates = {ref.path for block in blocks for ref in block.linears if ref.name == "mlp.gate_proj"}
    chosen = [replace(block, left={**block.left, "mlp.gate_proj": Why.CHOOSES}) for block in without(blocks, gates)]
    found = reach_of(model, chosen)
    said = {(left.part, left.what): left.why for left in found.left}
    assert said["model.layers.*.mlp.up_proj", "linear layer"] == "weight in common with another layer"
    assert said["model.layers.*.mlp.gate_proj", "router"] == "chooses experts"
    assert found.unused == []


def test_each_part_says_what_it_is_and_why_it_stays() -> None:
    said = {(left.part, left.what): left.why for left in reach(architectures.made(architectures.mixtral)).left}
    assert said == {
        ("lm_head", "head"): "outside of the blocks",
        ("model.embed_tokens", "embedding"): "outside of the blocks",
        ("model.norm", "norm"): "outside of the blocks",
        ("model.layers.*.input_layernorm", "norm"): "no matrix",
        ("model.layers.*.post_attention_layernorm", "norm"): "no matrix",
        ("model.layers.*.mlp.experts", "experts"): "many matrices in one tensor",
        ("model.layers.*.mlp.gate", "router"): "chooses experts",
    }
    tower = reach(architectures.made(lambda: architectures.llava(3))).left
    assert "not run on these samples" in {left.why for left in tower if left.part == "model.vision_tower"}
