"""Which linears of a model are compressed: patterns on tiny models, and what is said where they name nothing."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import torch
from tests.conftest import make_model
from tests.run.check import architectures
from torch import nn
from transformers import PreTrainedModel

import eckart
from eckart.blocks.block import Block
from eckart.blocks.discovery import find_blocks
from eckart.blocks.fuse import fusable
from eckart.compression.targets import Targets, choose_targets, named_outside, together, without
from eckart.errors import EckartError, RecipeError
from eckart.methods.recipes.loader import load_recipe


def chosen(model: PreTrainedModel, *overrides: str, keep: float = 0.6, blocks: list[Block] | None = None) -> Targets:
    recipe = load_recipe("svd", overrides)
    outside = named_outside(model, recipe)
    return choose_targets(model, blocks or find_blocks(model, outside=outside.__contains__), recipe, keep)


def names(targets: Targets) -> set[str]:
    return {path.removeprefix("model.layers.") for path in targets.paths}


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["targets.*=leave", "targets.*.q_proj=take"], {"0.self_attn.q_proj", "1.self_attn.q_proj"}),
        (["targets.*=leave", "targets.model.layers.1.mlp.up_proj=take"], {"1.mlp.up_proj"}),
        (["targets.model.layers.0=leave", "targets.*Attention=leave", "targets.LlamaMLP=leave"], None),
        (
            ["targets.*=leave", "targets.LlamaMLP=take", "targets.*.0.mlp=leave", "targets.*.up_proj=leave"],
            {"1.mlp.gate_proj", "1.mlp.down_proj"},
        ),
        (["targets.lm_head=leave", "targets.model.embed_tokens=leave", "targets.LlamaAttention=leave"], 6),
    ],
    ids=lambda value: str(sorted(value) if isinstance(value, set) else value),
)
def test_patterns_take_linears_out_and_in(overrides: list[str], expected: set[str] | int | None) -> None:
    model = make_model("llama")
    del model.model.layers[2]
    if expected is None:
        with pytest.raises(RecipeError, match=r"No linear layer is named by '\*Attention'"):
            chosen(model, *overrides)
        return
    found = chosen(model, *overrides)
    assert len(found.paths) == expected if isinstance(expected, int) else names(found) == expected
    assert len(found.blocks) == 2
    assert found.paths.isdisjoint(found.left)
    assert len(found.paths) + len(found.left) == 14


def test_without_targets_blocks_are_the_same_objects() -> None:
    model = make_model("llama")
    blocks = find_blocks(model)
    assert all(now is before for now, before in zip(chosen(model, blocks=blocks).blocks, blocks, strict=True))


def test_hidden_units_of_what_is_left_keep_their_order() -> None:
    model = make_model("llama")
    blocks = find_blocks(model, units=True)
    assert all(block.units for block in blocks)
    for name in ("gate_proj", "down_proj"):
        left = {ref.path for ref in blocks[1].linears if ref.name.endswith(name)}
        assert [bool(block.units) for block in without(blocks, left)] == [True, False, True]


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("*.q_prj", r"did you mean '\*\.q_proj'.*Choices: \*\.down_proj, .*LlamaMLP"),
        ("LlamaMPL", r"did you mean 'LlamaMLP'"),
        ("model.layers.7.mlp.up_proj", r"did you mean 'model\.layers\.\*\.mlp\.up_proj'\?"),
        ("down_proj", r"did you mean '\*\.down_proj'"),
        ("*.self_atn.*", r"did you mean '\*\.self_attn\.\*'"),
        ("*slf_attn*", r"did you mean '\*\.self_attn\.\*'"),
    ],
)
@pytest.mark.parametrize("size", ["=leave", "=take", ".keep=0.5", ".rank=2"])
def test_a_pattern_that_names_nothing_is_an_error_with_the_nearest_names(pattern: str, said: str, size: str) -> None:
    with pytest.raises(RecipeError, match=said):
        chosen(make_model("llama"), f"targets.{pattern}{size}")


def test_the_head_is_a_target_where_it_is_named_and_a_tied_one_is_the_embedding() -> None:
    for pattern in ("lm_head", "lm*"):
        found = chosen(make_model("llama"), f"targets.{pattern}.keep=0.8")
        assert set(found.budgets.own) == {"lm_head"}
        assert "lm_head" in found.paths
    with pytest.raises(EckartError, match=r"name lm_head, which has its weight in common with model\.embed_tokens"):
        chosen(make_model("qwen2"), "targets.lm_head.keep=0.8")
    for override in ("targets.*.keep=0.8", "targets.lm_head=leave"):
        found = chosen(make_model("llama"), override)
        assert "lm_head" not in found.paths | found.left


def test_what_cannot_be_compressed_is_named() -> None:
    model = architectures.made(architectures.mixtral)
    with pytest.raises(RecipeError, match=r"names model\.layers\.0\.mlp\.experts \(MixtralExperts\), which is no lin"):
        chosen(model, "targets.*.experts.keep=0.5")
    assert chosen(model, "targets.*.experts=leave").left == set()
    spare = make_model("llama")
    for layer in spare.model.layers:
        layer.register_module("spare", nn.Linear(4, 4))
    with pytest.raises(RecipeError, match=r"'\*\.spare' names 3 linear layers, .* none of which is run by calling it"):
        chosen(spare, "targets.*.spare=take")


def test_something_must_be_left_to_compress() -> None:
    with pytest.raises(RecipeError, match=r"leave all 21 linear layers as they are\. Expected one or more"):
        chosen(make_model("llama"), "targets.*=leave")


def test_towers() -> None:
    model = make_model("llama")
    with pytest.raises(RecipeError, match=r"has no tower 'vision'\. Choices: language\."):
        chosen(model, "towers.vision=0.9")
    first, *others = find_blocks(model)
    blocks = [replace(first, tower="vision"), *(replace(block, tower="language") for block in others)]
    found = chosen(model, "towers.vision=0.9", "targets.*.up_proj=leave", blocks=blocks)
    sizes = {ref.path: found.budgets.size(ref.path).keep for block in found.blocks for ref in block.linears}
    assert {size for path, size in sizes.items() if ".0." in path} == {0.9}
    assert {size for path, size in sizes.items() if ".0." not in path} == {0.6}
    with pytest.raises(RecipeError, match=r"no tower 'visoin'; did you mean 'vision'\? Choices: language, vision\."):
        chosen(model, "towers.visoin=0.9", blocks=blocks)


def test_groups_of_one_layer_have_one_size() -> None:
    model = make_model("llama")
    found = chosen(model, "targets.*.q_proj.keep=0.9", "targets.*.mlp.*.keep=0.7")
    joined = [[ref.name for ref in group.linears] for group in together(fusable(found.blocks), found.budgets)]
    assert joined == [["mlp.gate_proj", "mlp.up_proj"]] * 3
    with pytest.raises(RecipeError, match=r"fused_groups=true wants .* self_attn\.q_proj and .* differently"):
        chosen(model, "allocation.fused_groups=true", "targets.*.q_proj=leave")


KINDS = {
    "svd-llm": [],
    "svd-llm-v2": [],
    "adasvd": [],
    "zs-svd": [],
    "zs-svd-staged": ["allocation.stages=2"],
    "asvd": ["allocation.shares=[0.5, 0.8]"],
    "dobi-svd": ["allocation.epochs=1"],
    "io-svd": [],
    "eckart-fast": [],
    "saes-svd": ["allocation=energy"],
}


@pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning")
@pytest.mark.parametrize(
    ("name", "sharing"),
    [*((name, "separate") for name in KINDS), ("io-svd", "shared"), ("svd-llm", "by-loss")],
)
def test_what_is_named_keeps_its_own_size(name: str, sharing: str, tokens: torch.Tensor) -> None:
    """By every allocation: two sets with budgets, a rank that is said, and a block that is left as it is."""
    model = make_model("llama")
    before = {key: tensor.clone() for key, tensor in model.state_dict().items() if ".layers.0." in key}
    own = ["targets.LlamaMLP.keep=0.8", "targets.*.o_proj.rank=3", "targets.model.layers.0.*=leave"]
    overrides = [*KINDS[name], *own, f"sharing={sharing}", "allocation.multiple=1"]
    report = eckart.compress(model, name, 0.5, tokens[:3], overrides=overrides)
    kept: dict[str, list[int]] = {}
    for layer in report.layers:
        part = "o" if "o_proj" in layer.path else "mlp" if ".mlp." in layer.path else "others"
        kept[part] = [a + b for a, b in zip(kept.get(part, [0, 0]), (layer.bytes, layer.dense_bytes), strict=True)]
    assert {layer.rank for layer in report.layers if "o_proj" in layer.path} == {3}
    for part, size in (("mlp", 0.8), ("others", 0.5)):
        assert 0.6 * size < kept[part][0] / kept[part][1] <= size
    assert not [layer for layer in report.layers if ".layers.0." in layer.path]
    assert all(torch.equal(tensor, model.state_dict()[key]) for key, tensor in before.items())
    assert report.check is not None
    left = {found.part: found.bytes for found in report.check.left if found.why == "left by the recipe"}
    assert sum(left.values()) == report.check.ignored_bytes
    assert left["model.layers.*.mlp.up_proj"] == 4 * 32 * 48


def test_what_is_left_stays_in_16_bits(tokens: torch.Tensor) -> None:
    model = make_model("llama")
    layer = model.model.layers[1].mlp.down_proj
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = eckart.compress(model, "gptq", 0.5, tokens, ignore="*.down_proj", only=["LlamaMLP", "*.q_proj"])
    assert model.model.layers[1].mlp.down_proj is layer
    assert {type(m).__name__ for m in model.modules() if "Linear" in type(m).__name__} >= {"Linear", "QuantizedLinear"}
    ends = {layer.path.rpartition(".")[2] for layer in report.layers}
    assert ends == {"gate_proj", "up_proj", "q_proj"}
    assert [target.size for target in report.recipe.targets] == ["leave", "take", "take", "leave"]
