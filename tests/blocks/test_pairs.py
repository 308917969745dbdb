from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.conftest import CONFIGS, make_model
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, silu
from transformers import AutoModelForCausalLM, GPTJConfig, PhiConfig, Qwen3Config

from eckart.blocks.block_arguments import BlockArguments
from eckart.blocks.discovery import find_blocks
from eckart.blocks.pairs import Pair, find_pairs

HALVES = ((0, 4), (1, 5), (2, 6), (3, 7))
ATTENTION = ("self_attn.v_proj",), ("self_attn.q_proj", "self_attn.k_proj")
GATED = Pair("units", ("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj", 48, direct=True)
GROUPED = (
    GATED,
    Pair("values", ATTENTION[0], "self_attn.o_proj", 8, (0, 0, 1, 1)),
    Pair("keys", ATTENTION[1], None, 4, (0, 0, 1, 1), HALVES),
)
# What a human reads off the source of each architecture. Norms of queries look at all directions of a head.
PAIRS: dict[str, tuple[Pair, ...]] = {
    "llama": GROUPED,
    "qwen2": GROUPED,
    "gemma3": (GATED, Pair("values", ATTENTION[0], "self_attn.o_proj", 8, (0, 0, 0, 0))),
    "opt": (
        Pair("units", ("fc1",), "fc2", 48, direct=True),
        Pair("values", ATTENTION[0], "self_attn.out_proj", 8, (0, 1, 2, 3)),
        Pair("keys", ATTENTION[1], None, 8, (0, 1, 2, 3), tuple((i,) for i in range(8))),
    ),
    "phi3": (),
    "gpt2": (Pair("units", ("mlp.c_fc",), "mlp.c_proj", 128, direct=True),),
    "gpt-neox": (Pair("units", ("mlp.dense_h_to_4h",), "mlp.dense_4h_to_h", 48, direct=True),),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_found_in_every_block(kind: str) -> None:
    for block in find_blocks(make_model(kind), pairs=True)[:2]:
        assert block.pairs == PAIRS[kind]


@pytest.mark.parametrize("kind", ["llama", "opt"])
def test_found_in_16_bits_and_only_where_asked(kind: str) -> None:
    model = make_model(kind).to(torch.bfloat16)
    assert find_blocks(model, pairs=True)[0].pairs == PAIRS[kind]
    assert not find_blocks(model)[0].pairs


def pairs_of(config: Any) -> dict[str, Pair]:
    torch.manual_seed(0)
    (block, *_) = find_blocks(AutoModelForCausalLM.from_config(config).eval(), pairs=True)
    return {pair.kind: pair for pair in block.pairs}


def test_a_part_of_a_head_that_is_rotated() -> None:
    config = PhiConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        partial_rotary_factor=0.5,
        pad_token_id=0,
    )
    found = pairs_of(config)
    assert found["keys"].planes == ((0, 2), (1, 3), (4, 5), (6, 7))
    assert found["values"].heads == (0, 1, 2, 3)


def test_neighbours_that_are_rotated() -> None:
    config = GPTJConfig(vocab_size=64, n_embd=32, n_layer=1, n_head=4, rotary_dim=8, n_positions=64)
    found = pairs_of(config)
    assert found["keys"].planes == ((0, 1), (2, 3), (4, 5), (6, 7))


def test_norms_of_queries_leave_them_alone() -> None:
    config = Qwen3Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        pad_token_id=0,
    )
    found = pairs_of(config)
    assert set(found) == {"units", "values"}


class Mlp(nn.Module):
    """An MLP whose hidden units are normed together, or scaled each by its own number."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.gate, self.up, self.down = (nn.Linear(*shape, bias=False) for shape in ((8, 12), (8, 12), (12, 8)))
        self.norm = nn.LayerNorm(12, elementwise_affine=False)
        self.scale = nn.Parameter(torch.ones(12))
        self.kind = kind

    def forward(self, hidden: Tensor) -> Tensor:
        units = silu(self.gate(hidden)) * self.up(hidden)
        if self.kind == "normed":
            units = self.norm(units)
        elif self.kind == "scaled":
            units = units * self.scale
        result: Tensor = hidden + self.down(units)
        return result


@pytest.mark.parametrize(("kind", "direct"), [("plain", True), ("scaled", False), ("normed", None)])
def test_units_that_depend_on_one_another_are_none(kind: str, direct: bool | None) -> None:
    torch.manual_seed(0)
    found = find_pairs(Mlp(kind), BlockArguments(), torch.randn(2, 4, 8), [["gate", "up"], ["down"]])
    assert found == (() if direct is None else (Pair("units", ("gate", "up"), "down", 12, direct=direct),))


class Attention(nn.Module):
    def __init__(self, *, square: bool = False) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(8, 8, bias=False) for _ in range(4))
        self.square = square

    def forward(self, hidden: Tensor) -> Tensor:
        q, k, v = (x(hidden).unflatten(-1, (2, 4)).transpose(1, 2) for x in (self.q, self.k, self.v))
        if self.square:
            v = v.square() + v
        mixed = scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        result: Tensor = hidden + self.o(mixed)
        return result


def test_heads_are_told_apart_and_values_have_to_be_linear() -> None:
    torch.manual_seed(0)
    groups = [["q", "k", "v"], ["o"]]
    found = find_pairs(Attention(), BlockArguments(), torch.randn(2, 4, 8), groups)
    assert found == (
        Pair("values", ("v",), "o", 4, (0, 1)),
        Pair("keys", ("q", "k"), None, 4, (0, 1), ((0,), (1,), (2,), (3,))),
    )
    assert find_pairs(Attention(square=True), BlockArguments(), torch.randn(2, 4, 8), groups) == ()


def test_parts_say_what_a_linear_has_of_its_pair() -> None:
    (block, *_) = find_blocks(make_model("llama"), pairs=True)
    rows = {name: part.rows for name in ("q", "k", "v", "o") if (part := block.part(f"self_attn.{name}_proj"))}
    assert rows == {"q": 8, "k": 4, "v": 2, "o": 4}
    for name in ("gate", "up", "down"):
        part = block.part(f"mlp.{name}_proj")
        assert part is not None
        assert (part.rows, part.width, part.direct) == (1, 48, True)
        assert part.side == ("inputs" if name == "down" else "outputs")
    assert block.part("mlp.other") is None
