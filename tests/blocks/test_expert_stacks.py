"""Tensors of many matrices in a block are found by what is done with them, and only where linear layers do the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as t
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from eckart.blocks.block_arguments import BlockArguments
from eckart.blocks.discovery import find_blocks
from eckart.blocks.expert_stacks import contract, expand, expanded, find_stacks
from eckart.blocks.onload import ResidentWeights
from eckart.layers.linear_stack import StackLayout, linear_stacks

WIDTH, NUMBER = 6, 3
MODEL: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}


class Block(nn.Module):
    """A block with one parameter, and what it does with it."""

    def __init__(self, use: Callable[[Any, Tensor], Tensor], *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(*shape))
        self.use = use

    def forward(self, hidden: Tensor) -> Tensor:
        """Map (batch, length, width) to the same."""
        return hidden + self.use(self.weight, hidden.flatten(0, 1)).view_as(hidden)


def of(use: Callable[[Any, Tensor], Tensor], *shape: int) -> dict[str, StackLayout]:
    """Return what is found in such a block, which must be left as it was."""
    torch.manual_seed(0)
    block = Block(use, *shape or (NUMBER, WIDTH, WIDTH))
    before, weight = block(torch.ones(1, 4, WIDTH)), block.weight
    found = find_stacks(block, BlockArguments(), torch.randn(1, 4, WIDTH))
    assert block.weight is weight
    assert torch.equal(block(torch.ones(1, 4, WIDTH)), before)
    return found


@pytest.mark.parametrize(
    ("use", "transposed"),
    [
        (lambda w, x: F.linear(x, w[0]) + F.linear(x, w[2]), False),
        (lambda w, x: x @ w[1], True),
        (lambda w, x: x @ w[1].T, False),
        (lambda w, x: torch.bmm(x.expand(NUMBER, -1, -1), w).sum(0), True),
        (lambda w, x: torch.bmm(x.expand(NUMBER, -1, -1), w.transpose(1, 2)).sum(0), False),
    ],
)
def test_square_matrices_are_told_from_their_transposes(use: Callable[[Any, Tensor], Tensor], transposed: bool) -> None:
    assert of(use) == {"weight": StackLayout(NUMBER, transposed)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_matrices_that_are_used_in_float32(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    block = Block(lambda w, x: (x.float() @ w[1].float()).to(x.dtype), NUMBER, WIDTH, WIDTH).to(dtype)
    found = find_stacks(block, BlockArguments(), torch.randn(1, 4, WIDTH, dtype=dtype))
    assert found == {"weight": StackLayout(NUMBER, transposed=True)}


def test_a_matrix_that_is_viewed_as_several() -> None:
    found = of(lambda w, x: F.linear(x, w.view(NUMBER, WIDTH, WIDTH)[1]), NUMBER * WIDTH, WIDTH)
    assert found == {"weight": StackLayout(NUMBER, transposed=False)}


@pytest.mark.parametrize(
    ("use", "shape"),
    [
        (lambda w, x: F.linear(x, w), (WIDTH, WIDTH)),  # one matrix is no stack
        (lambda w, x: F.linear(x, w[0]) + (w[1] * w[1]).sum(), (NUMBER, WIDTH, WIDTH)),  # and something else
        (lambda w, x: F.linear(x, w[0]) + x @ w[0], (NUMBER, WIDTH, WIDTH)),  # in two ways
        (lambda w, x: torch.einsum("ti,eio->to", x, w), (NUMBER, WIDTH, WIDTH)),
        (lambda w, x: F.linear(x, w.chunk(3)[0]), (NUMBER * WIDTH, WIDTH)),
        (lambda w, x: x * w[0, 0], (NUMBER, WIDTH, WIDTH)),
    ],
)
def test_what_else_is_done_stays(use: Callable[[Any, Tensor], Tensor], shape: tuple[int, ...]) -> None:
    assert of(use, *shape) == {}


@pytest.mark.parametrize("implementation", ["grouped_mm", "eager", "batched_mm"])
def test_a_mixture_gives_the_same_and_comes_back(implementation: str) -> None:
    torch.manual_seed(0)
    model = t.MixtralForCausalLM(t.MixtralConfig(**MODEL, num_local_experts=4)).eval()
    model.set_experts_implementation(implementation)
    ids, names = torch.arange(20).view(2, 10), list(model.state_dict())
    numbers = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        expected = model(ids).logits
        expand(model, ResidentWeights())
        assert len(linear_stacks(model)) == 4
        for other in ("grouped_mm", "eager", "batched_mm"):
            model.set_experts_implementation(other)
            torch.testing.assert_close(model(ids).logits, expected)
    contract(model, ResidentWeights())
    assert list(model.state_dict()) == names
    assert all(torch.equal(tensor, numbers[name]) for name, tensor in model.state_dict().items())


def test_all_experts_are_in_groups_and_the_router_is_not() -> None:
    torch.manual_seed(0)
    model = t.MixtralForCausalLM(t.MixtralConfig(**MODEL, num_local_experts=40, num_experts_per_tok=1)).eval()
    expand(model, ResidentWeights())  # 16 tokens of the probe reach at most 16 of them
    for block in find_blocks(model):
        routed = [group for group in block.groups if group.routed]
        assert [group.linears[0].name for group in routed] == [
            *(f"mlp.experts.gate_up_proj.{number}" for number in range(40)),
            *(f"mlp.experts.down_proj.{number}" for number in range(40)),
        ]
        assert len({group.stage for group in routed}) == 2
        assert {ref.name.split(".")[0] for group in block.groups if not group.routed for ref in group.linears} == {
            "self_attn"
        }


def test_a_stack_that_was_changed_stays() -> None:
    model = t.MixtralForCausalLM(t.MixtralConfig(**MODEL, num_local_experts=2))
    expand(model, ResidentWeights())
    model.set_submodule("model.layers.0.mlp.experts.down_proj.1", nn.Identity())
    contract(model, ResidentWeights())
    assert list(linear_stacks(model)) == ["model.layers.0.mlp.experts.down_proj"]


def test_a_copy_is_expanded_and_the_model_stays() -> None:
    model = t.MixtralForCausalLM(t.MixtralConfig(**MODEL, num_local_experts=2))
    names = list(model.state_dict())
    assert len(linear_stacks(expanded(model))) == 4
    assert list(model.state_dict()) == names
    without = t.LlamaForCausalLM(t.LlamaConfig(**MODEL))
    assert expanded(without) is without


def test_a_model_without_any_is_not_run() -> None:
    model = t.LlamaForCausalLM(t.LlamaConfig(**MODEL))
    model.forward = lambda *_, **__: pytest.fail("it was run")
    expand(model, ResidentWeights())
    assert not linear_stacks(model)
