from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.compression.test_walk import RESIDUALS
from tests.conftest import make_model
from torch import Tensor, nn

import eckart
from eckart.blocks.block_arguments import BlockArguments
from eckart.blocks.discovery import find_blocks
from eckart.blocks.entrance import enter
from eckart.blocks.residual import reading, residual_places
from eckart.errors import UnsupportedModelError
from eckart.layers import is_replaced

WIDTH = 6
CALL = BlockArguments()


class Example(nn.Module):
    """A block made of its parts by a function of them and its input."""

    run: Callable[..., Tensor]
    gate: Any
    up: Any
    down: Any
    b: Any

    def __init__(self, run: Callable[..., Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            self.add_module(name, part)
        torch.manual_seed(0)
        for parameter in self.parameters():
            nn.init.normal_(parameter)

    def forward(self, hidden: Tensor) -> Tensor:
        result: Tensor = self.run(self, hidden)
        return result


def linear() -> nn.Linear:
    return nn.Linear(WIDTH, WIDTH)


def norm() -> nn.LayerNorm:
    return nn.LayerNorm(WIDTH)


def places(run: Callable[..., Tensor], dtype: torch.dtype = torch.float32, **parts: Any) -> dict[str, str]:
    block = Example(run, **parts).to(dtype)
    return residual_places(block, CALL, torch.randn(1, 4, WIDTH, dtype=dtype))


@pytest.mark.parametrize("kind", RESIDUALS)
def test_found_in_every_block_of_architectures_that_have_them(kind: str) -> None:
    for block in find_blocks(make_model(kind), residuals=True):
        assert {t.name: t.residual for t in block.linears if t.residual is not None} == RESIDUALS[kind]
    assert all(ref.residual is None for ref in find_blocks(make_model(kind))[0].linears)


@pytest.mark.parametrize("kind", ["gemma3", "gpt-neox"])
def test_models_without_one_are_refused_with_a_way_out(kind: str, tokens: Tensor) -> None:
    model = make_model(kind)
    overrides = ["objective.residual_anchoring=1"]
    with pytest.raises(UnsupportedModelError, match=r"Residual anchoring .* objective\.residual_anchoring=0"):
        eckart.compress(model, "saes-svd", 0.6, tokens, overrides=overrides)
    assert not any(map(is_replaced, model.modules()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms_in_front_or_behind_the_sum(dtype: torch.dtype) -> None:
    parts: dict[str, Any] = {"norm": norm(), "a": linear(), "b": linear()}
    assert places(lambda s, x: x + s.b(s.a(s.norm(x))), dtype, **parts) == {"b": ""}
    assert places(lambda s, x: s.norm(s.b(s.a(x)) + x), dtype, **parts) == {"b": ""}
    assert places(lambda s, x: x + s.norm(s.b(s.a(x))), dtype, **parts) == {}
    assert places(lambda s, x: x + 0.5 * s.b(s.a(s.norm(x))), dtype, **parts) == {}


def test_branches_beside_each_other_have_none() -> None:
    parts: dict[str, Any] = {"norm": norm(), "a": linear(), "b": linear()}
    assert places(lambda s, x: x + s.a(s.norm(x)) + s.b(s.norm(x)), **parts) == {}
    # The second of two sums is one, where the first is looked at in between.
    assert places(lambda s, x: s.b(s.norm(x + s.a(x))) + x + s.a(x), **parts) == {}


def test_an_output_too_small_to_see_does_not_count() -> None:
    block = Example(lambda s, x: x + s.b(s.a(x)), a=linear(), b=linear())
    hidden = torch.randn(1, 4, WIDTH)
    assert residual_places(block, CALL, hidden) == {"b": ""}
    with torch.no_grad():
        block.b.weight.mul_(1e-12)
        block.b.bias.zero_()
    assert residual_places(block, CALL, hidden) == {}


def test_a_linear_that_runs_twice_has_none() -> None:
    assert places(lambda s, x: x + s.a(s.a(x)), a=linear()) == {}


def test_a_stream_that_is_written_to_in_place_is_read_as_it_was(tokens: Tensor) -> None:
    block = Example(lambda s, x: x.add_(s.b(s.a(s.norm(x)))), norm=norm(), a=linear(), b=linear())
    hidden = torch.randn(1, 4, WIDTH)
    before = hidden.clone()
    assert residual_places(block, CALL, hidden) == {"b": ""}
    hidden = before.clone()
    with reading(block, [""]) as seen, torch.no_grad():
        block(hidden)
    assert torch.equal(seen[""], before[0])
    assert not torch.equal(hidden, before)


def test_streams_are_read_where_they_are(tokens: Tensor) -> None:
    model = make_model("llama")
    block: Any = model.model.layers[0]
    with torch.no_grad():
        entered = enter(model, find_blocks(model), 0, {"input_ids": tokens})
    hidden, call = entered.hidden, entered.arguments[0]
    with reading(block, ["", "post_attention_layernorm"]) as seen, torch.no_grad():
        output = call(block, hidden.clone())
    assert torch.equal(seen[""], hidden.flatten(0, 1))
    with torch.no_grad():
        middle = seen["post_attention_layernorm"]
        torch.testing.assert_close(middle + block.mlp(block.post_attention_layernorm(middle)), output.flatten(0, 1))
    assert not any(module._forward_pre_hooks for module in block.modules())
