from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.blocks.scripted import WIDTH, Part, Scripted, plain, x
from tests.conftest import CONFIGS, make_model
from tests.tiny_models import forward_inputs, make
from torch import Tensor, nn
from transformers import PreTrainedModel

import eckart
from eckart.blocks.discovery import block_lists, find_blocks, vocabulary_of
from eckart.errors import UnsupportedModelError

# What a human reads off the source of each architecture: linears by the input that they share, in order.
GROUPS = {
    "llama": [["q_proj", "k_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj"], ["down_proj"]],
    "qwen2": [["q_proj", "k_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj"], ["down_proj"]],
    "gemma3": [["q_proj", "k_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj"], ["down_proj"]],
    "opt": [["q_proj", "k_proj", "v_proj"], ["out_proj"], ["fc1"], ["fc2"]],
    "phi3": [["qkv_proj"], ["o_proj"], ["gate_up_proj"], ["down_proj"]],
    "gpt2": [["c_attn"], ["c_proj"], ["c_fc"], ["c_proj"]],
    "gpt-neox": [["query_key_value"], ["dense"], ["dense_h_to_4h"], ["dense_4h_to_h"]],
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_groups_are_found_in_every_architecture(kind: str) -> None:
    model = make_model(kind)
    blocks = find_blocks(model)
    assert len(blocks) == model.config.num_hidden_layers
    for block in blocks:
        names = [sorted(t.name.split(".")[-1] for t in group.linears) for group in block.groups]
        assert names == [sorted(names) for names in GROUPS[kind]]
        assert all(group.runs_once for group in block.groups)
        for ref in (ref for group in block.groups for ref in group.linears):
            assert model.get_submodule(ref.path) is block.module.get_submodule(ref.name)


def test_grouped_queries_have_their_own_shapes(llama: PreTrainedModel) -> None:
    shapes = {t.name: t.shape for group in find_blocks(llama)[0].groups for t in group.linears}
    assert shapes["self_attn.q_proj"] == (32, 32)
    assert shapes["self_attn.k_proj"] == (16, 32)
    assert shapes["mlp.down_proj"] == (32, 48)


def paths(model: PreTrainedModel, **options: Any) -> list[str]:
    return [block.path for block in find_blocks(model, **options)]


def chain(model: Any, hidden: Tensor) -> Tensor:
    for layer in model.layers:
        hidden = layer(hidden)
    return hidden


LINEARS_OF_BLOCKS = {
    "gemma3n": {f"model.layers.{n}": 14 if n < 2 else 12 for n in range(4)},  # the last ones have no keys and values
    "gemma4": {f"model.layers.{n}": 9 for n in range(2)},
    "bart": {f"model.{part}.layers.{n}": count for part, count in (("encoder", 6), ("decoder", 10)) for n in range(2)},
    "t5": {f"{part}.block.{n}": count for part, count in (("encoder", 6), ("decoder", 10)) for n in range(2)},
    "clip": {f"{part}_model.encoder.layers.{n}": 6 for part in ("vision", "text") for n in range(2)},
    "swin": {"swin.encoder.layers.0": 7, "swin.encoder.layers.1": 12},
    "llava": {
        **{f"model.vision_tower.encoder.layers.{n}": 6 for n in range(3)},
        **{f"model.language_model.layers.{n}": 7 for n in range(2)},
    },
    "qwen3-vl": {
        "model.visual.blocks.0": 4,
        "model.visual.deepstack_merger_list.0": 2,
        "model.visual.blocks.1": 4,
        "model.visual.deepstack_merger_list.1": 2,
        "model.visual.blocks.2": 4,
        **{f"model.language_model.layers.{n}": 7 for n in range(3)},
    },
}


@pytest.mark.parametrize("kind", LINEARS_OF_BLOCKS)
def test_blocks_of_all_towers_are_found_in_order_of_execution(kind: str) -> None:
    model, samples = make(kind)
    blocks = find_blocks(model, None, forward_inputs(model, samples[0]))
    assert [(block.path, len(block.linears)) for block in blocks] == list(LINEARS_OF_BLOCKS[kind].items())


def test_what_is_known_of_the_blocks_of_an_encoder_decoder() -> None:
    model, samples = make("t5")
    blocks = find_blocks(model, None, forward_inputs(model, samples[0]))
    assert [block.tower for block in blocks] == ["encoder", "encoder", "decoder", "decoder"]
    assert [block.enters for block in blocks] == [True, False, True, False]
    assert [block.tapped for block in blocks] == [False, True, False, False]
    assert [block.hands_more for block in blocks] == [True, False, True, False]  # a bias of positions
    assert [block.causal for block in blocks] == [False, False, True, False]
    assert [(block.rows, block.width) for block in blocks] == [(9, 32), (9, 32), (5, 32), (5, 32)]


def test_what_blocks_put_into_a_mapping_for_later_ones_is_known() -> None:
    model, samples = make("gemma3n")
    blocks = find_blocks(model, None, forward_inputs(model, samples[0]))
    kinds = ("sliding_attention", "full_attention")
    expected = [[(n, "shared_kv_states", kind) for n in range(2)] for kind in kinds]  # keys and values
    found = [[(given.leaf, given.place, given.key) for given in block.site.gives] for block in blocks]
    assert found == [*expected, [], []]


def test_a_model_without_a_list_of_blocks_is_one_block() -> None:
    model = Scripted(lambda model, hidden: model.only(hidden))
    model.only = Part(plain)
    (block,) = find_blocks(model, None, x())
    assert (block.path, [ref.path for ref in block.linears]) == ("", ["only.linear"])


def test_the_experts_inside_a_block_are_not_taken_for_blocks() -> None:
    model = nn.Module()
    model.layers = nn.ModuleList(nn.Module() for _ in range(2))
    for layer in model.layers:
        layer.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(8))
    assert [path for path, _ in block_lists(model)] == ["layers"]


def test_a_list_of_linears_is_no_list_of_blocks() -> None:
    model = nn.Module()
    model.layers = nn.ModuleList(nn.Sequential(nn.Linear(4, 4)) for _ in range(2))
    model.projections = nn.ModuleList(nn.Linear(4, 4) for _ in range(5))
    model.images = nn.Module()
    model.images.layers = nn.ModuleList(nn.Sequential(nn.Linear(8, 8)) for _ in range(9))
    assert [path for path, _ in block_lists(model)] == ["layers", "images.layers"]


@pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning")
def test_blocks_that_share_a_layer_are_one_block(llama: PreTrainedModel, tokens: Tensor) -> None:
    llama.model.layers[1].mlp = llama.model.layers[0].mlp
    (block,) = find_blocks(llama)
    assert block.path == "model"
    shared = {ref.path for group in block.groups if not group.runs_once for ref in group.linears}
    assert shared == {f"model.layers.0.mlp.{name}_proj" for name in ("gate", "up", "down")}
    report = eckart.compress(llama, "svd-llm", 0.6, tokens)
    assert len({layer.path for layer in report.layers}) == len(report.layers) == 18
    assert llama.model.layers[1].mlp.up_proj is llama.model.layers[0].mlp.up_proj


def test_blocks_that_are_run_again_are_one_block(llama: PreTrainedModel) -> None:
    llama.model.layers[2] = llama.model.layers[0]
    (block,) = find_blocks(llama)
    assert block.path == "model"
    assert len(block.linears) == 14
    looped = Scripted(lambda model, hidden: chain(model, chain(model, hidden)), plain, plain)
    (block,) = find_blocks(looped, None, x())
    assert (block.path, len(block.linears)) == ("", 2)


def test_only_the_part_around_blocks_that_cannot_be_run_alone_is_one_block() -> None:
    class Inner(Part):
        def __init__(self) -> None:
            super().__init__(lambda inner, hidden: chain(inner, chain(inner, hidden)))
            self.layers = nn.ModuleList(Part(plain) for _ in range(2))

    model = Scripted(lambda model, hidden: model.inner(chain(model, hidden)), plain, plain)
    model.inner = Inner()
    assert [block.path for block in find_blocks(model, None, x())] == ["layers.0", "layers.1", "inner"]


def test_the_lists_in_a_list_hold_the_blocks() -> None:
    """Stages of a tower, and pairs of layers that the model adds up itself: the outer list's items are not called."""

    def run(model: Any, hidden: Tensor) -> Tensor:
        for stage in model.stages:
            for layer in stage:
                hidden = hidden + layer(hidden)
        return hidden

    model = Scripted(run)
    model.stages = nn.ModuleList(nn.ModuleList(Part(plain) for _ in range(2)) for _ in range(2))
    assert [path for path, _ in block_lists(model)] == ["stages.0", "stages.1"]
    assert paths(model, inputs=x()) == ["stages.0.0", "stages.0.1", "stages.1.0", "stages.1.1"]


def test_a_list_with_a_gap_is_no_list_of_blocks() -> None:
    """As of what stands between blocks, and is not there behind the last one."""
    model = Scripted(lambda model, hidden: chain(model, model.between[0](hidden)), plain, plain)
    model.between = nn.ModuleList([Part(plain), None])  # type: ignore[list-item]
    assert [path for path, _ in block_lists(model)] == ["layers"]
    assert paths(model, inputs=x()) == ["layers.0", "layers.1"]


def test_gradients_of_the_last_round_of_a_loop_are_enough() -> None:
    def run(model: Any, hidden: Tensor) -> Tensor:
        with torch.no_grad():
            hidden = chain(model, hidden)
        return chain(model, hidden)

    def never(model: Any, hidden: Tensor) -> Tensor:
        with torch.no_grad():
            unused = model.layers[1](hidden)
        result: Tensor = model.layers[0](hidden) + unused
        return result

    def linears(model: PreTrainedModel, *, gradients: bool) -> set[str]:
        return {ref.path for block in find_blocks(model, None, x(), gradients=gradients) for ref in block.linears}

    both = {"layers.0.linear", "layers.1.linear"}
    assert linears(Scripted(run, plain, plain), gradients=True) == both
    around = Scripted(lambda model, hidden: never(model, never(model, hidden)), plain, plain)
    assert linears(around, gradients=False) == both
    assert linears(around, gradients=True) == {"layers.0.linear"}


def test_a_model_that_cannot_be_run_in_parts_is_refused() -> None:
    def writes(part: Any, hidden: Tensor, table: Tensor) -> Tensor:
        table.add_(1)
        return plain(part, hidden)

    def run(model: Any, hidden: Tensor, table: Tensor) -> Tensor:
        result: Tensor = model.layers[0](hidden, table)
        return result

    scripted: Any = run
    model: Any = Scripted(scripted, writes)
    model.forward = lambda x, table: run(model, x, table)
    with pytest.raises(UnsupportedModelError, match="cannot be run in parts"):
        find_blocks(model, None, {**x(), "table": torch.zeros(1)})


def test_what_gives_nothing_is_inside_of_a_block() -> None:
    def run(model: Any, hidden: Tensor) -> Tensor:
        model.layers[0](hidden)
        result: Tensor = model.layers[1](hidden)
        return result

    def nothing(part: Any, hidden: Tensor) -> None:
        part.linear(hidden)

    (block,) = find_blocks(Scripted(run, nothing, plain), None, x())
    assert (block.path, len(block.linears)) == ("", 2)


def test_blocks_are_in_the_order_in_which_they_are_run(llama: PreTrainedModel) -> None:
    llama.model.layers = Reversed(llama.model.layers)
    assert paths(llama) == [f"model.layers.{number}" for number in (2, 1, 0)]


class Reversed(nn.ModuleList):
    """Is looped over from its end."""

    def __getitem__(self, index: int | slice) -> Any:
        return nn.ModuleList(reversed(list(self))) if isinstance(index, slice) else super().__getitem__(index)


def test_a_block_that_is_not_run_is_left_out(llama: PreTrainedModel) -> None:
    llama.config.num_hidden_layers = 2
    assert paths(llama) == ["model.layers.0", "model.layers.1"]


def test_a_linear_that_is_handed_its_input_by_name_is_found(llama: PreTrainedModel) -> None:
    mlp: Any = llama.model.layers[0].mlp
    mlp.forward = lambda x: mlp.down_proj(input=mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x))
    names = [[ref.name for ref in group.linears] for group in find_blocks(llama)[0].groups]
    assert names[-2:] == [["mlp.gate_proj", "mlp.up_proj"], ["mlp.down_proj"]]


def test_the_head_of_a_model_that_is_one_block_is_in_no_group_unless_it_is_wanted() -> None:
    model = Scripted(lambda model, hidden: model.head(chain(model, chain(model, hidden))), plain, plain)
    model.head = nn.Linear(WIDTH, 9)
    model.get_output_embeddings = lambda: model.head
    for wanted in (False, True):
        wants: Callable[[str], bool] = [lambda path: False, lambda path: path == "head"][wanted]
        (block,) = find_blocks(model, None, x(), outside=wants)
        assert block.path == ""
        assert ("head" in {ref.path for ref in block.linears}) == wanted
        assert ("head" in block.left) == (not wanted)


def test_linears_outside_of_blocks_are_blocks_if_they_are_wanted(llama: PreTrainedModel) -> None:
    *blocks, head = find_blocks(llama, outside=lambda path: path == "lm_head")
    assert [block.path for block in blocks] == [f"model.layers.{number}" for number in range(3)]
    (ref,) = head.linears
    assert (head.path, ref.path, ref.shape) == ("lm_head", "lm_head", (256, 32))
    assert head.called is llama.lm_head
    assert head.enters


def test_the_words_that_a_model_knows() -> None:
    assert vocabulary_of(make("llama")[0]) == 256
    assert vocabulary_of(make("vit")[0]) is None
