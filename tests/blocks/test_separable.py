"""Whether blocks can be run alone, for models that call them in ways that are easy to see."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.blocks.scripted import Scripted, blocks_of, plain, traced, x
from torch import Tensor

from eckart.blocks.block import Block
from eckart.blocks.separable import inseparable, tapped_blocks
from eckart.blocks.trace import Trace, trace
from eckart.errors import UnsupportedModelError

KNOWN = {f"layers.{number}": () for number in range(4)}


def chain(model: Any, hidden: Tensor) -> Tensor:
    for layer in model.layers:
        hidden = layer(hidden)
    return hidden


def problem(run: Callable[..., Any], *blocks: Callable[..., Any]) -> str | None:
    return inseparable(traced(run, *blocks), KNOWN)


def test_blocks_in_a_chain_can_be_run_alone() -> None:
    assert problem(chain, plain, plain) is None


def test_a_block_that_is_called_again_cannot() -> None:
    assert problem(lambda model, hidden: chain(model, chain(model, hidden)), plain, plain) == "layers.0"


def test_a_block_that_shares_a_layer_with_an_earlier_one_cannot() -> None:
    model = Scripted(chain, plain, plain)
    model.layers[1].linear = model.layers[0].linear
    found = trace(model, blocks_of(model), x(), lambda module, path: nullcontext(), lambda call: None)
    assert inseparable(found, KNOWN) == "layers.1"


def test_a_block_that_gives_nothing_cannot() -> None:
    def run(model: Any, hidden: Tensor) -> Tensor:
        model.layers[1](hidden)
        result: Tensor = model.layers[0](hidden)
        return result

    assert problem(run, plain, lambda block, hidden: None) == "layers.1"


def test_a_block_that_writes_into_what_it_is_handed_cannot() -> None:
    def run(model: Any, hidden: Tensor) -> Tensor:
        table = torch.zeros(1)
        for layer in model.layers:
            hidden = layer(hidden, table)
        return hidden

    blocks = (
        lambda block, hidden, table: plain(block, hidden),
        lambda block, h, table: plain(block, h + table.add_(1)),
    )
    assert problem(run, *blocks) == "layers.1"


@pytest.mark.parametrize("between", [False, True])
def test_what_a_block_gives_beside_hidden_states_stays_in_its_segment(between: bool) -> None:
    def giving(block: Any, hidden: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
        bias = hidden.sum() if bias is None else bias
        return plain(block, hidden) + bias, bias

    def run(model: Any, hidden: Tensor) -> Tensor:
        hidden, bias = model.layers[0](hidden)
        hidden, _ = model.layers[1](2 * hidden if between else hidden, bias)
        return hidden

    assert problem(run, giving, giving) == ("layers.1" if between else None)


def test_a_model_that_runs_none_of_its_blocks_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="runs none of its blocks"):
        problem(lambda model, hidden: hidden, plain)


def taps(run: Callable[[Any, Tensor], Any], count: int = 3) -> tuple[set[int], str | None]:
    model = Scripted(run, *[plain] * count)
    found = trace(model, blocks_of(model), x(), lambda module, path: nullcontext(), lambda call: None)
    return tapped_blocks(model, _blocks(found), found, x(), lambda module, path: nullcontext())


def _blocks(found: Trace) -> list[Block]:
    blocks = [Block(call.path, call.module, (), site=call.arguments.site, enters=call.enters) for call in found.calls]
    return [replace(b, width=c.behind.shape[-1], rows=c.rows) for b, c in zip(blocks, found.calls, strict=True)]


def test_nobody_looks_at_outputs_in_a_chain() -> None:
    assert taps(chain) == (set(), None)


def test_the_end_of_a_segment_is_looked_at() -> None:
    def run(model: Any, hidden: Tensor) -> Tensor:
        first, second, third = model.layers
        result: Tensor = third(second(first(hidden)).flip(1))
        return result

    assert taps(run) == ({1}, None)


def test_an_output_that_the_head_adds_up_is_looked_at() -> None:
    def run(model: Any, hidden: Tensor) -> Tensor:
        first, second, third = model.layers
        one = first(hidden)
        result: Tensor = third(second(one)) + one
        return result

    assert taps(run) == ({0}, None)


def test_an_output_that_a_later_block_is_handed_is_looked_at() -> None:
    def run(model: Any, hidden: Tensor) -> Tensor:
        behind = [hidden]
        for layer in model.layers:
            behind.append(layer(behind[-1]) if len(behind) < 3 else layer(behind[1] * behind[2]))
        return behind[-1]

    assert taps(run) == ({0, 1}, None)


def test_a_model_that_looks_into_a_block_is_not_run_in_parts() -> None:
    def run(model: Any, hidden: Tensor) -> Tensor:
        seen: list[Tensor] = []
        handle = model.layers[0].linear.register_forward_hook(lambda module, args, output: seen.append(output))
        hidden = model.layers[0](hidden)
        handle.remove()
        result: Tensor = model.layers[1](hidden + seen[0])
        return result

    found, path = taps(run, 2)
    assert (found, path) == (set(), "layers.1")


def test_a_head_that_looks_into_a_block_is_not_run_in_parts() -> None:
    def run(model: Any, hidden: Tensor) -> Tensor:
        seen: list[Tensor] = []
        handle = model.layers[1].linear.register_forward_hook(lambda module, args, output: seen.append(output))
        hidden = chain(model, hidden)
        handle.remove()
        return hidden + sum(seen)

    assert taps(run, 2) == (set(), "layers.1")
