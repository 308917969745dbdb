"""What one run of a model shows, for models that call blocks in ways that are easy to see."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from tests.blocks.scripted import WIDTH, Scripted, blocks_of, plain, traced, x
from torch import Tensor

from eckart.blocks.block_arguments import BlockArguments
from eckart.blocks.carried import Carried, Given
from eckart.blocks.trace import TracedCall, fingerprint, fingerprint_of, same_fingerprints, trace


def chain(model: Any, hidden: Tensor) -> Tensor:
    for layer in model.layers:
        hidden = layer(hidden)
    return hidden


def test_blocks_are_in_the_order_in_which_they_are_called() -> None:
    def run(model: Any, hidden: Tensor) -> Tensor:
        first, second, third = model.layers
        result: Tensor = third(2 * first(second(hidden)))
        return result

    found = traced(run, plain, plain, plain)
    assert [call.path for call in found.calls] == ["layers.1", "layers.0", "layers.2"]
    # What the model made in between is no longer what the block before gave.
    assert [call.enters for call in found.calls] == [True, False, True]
    assert [call.rows for call in found.calls] == [4, 4, 4]
    for call in found.calls:
        torch.testing.assert_close(call.behind, plain(call.module, call.front))
    assert torch.equal(found.output, found.calls[-1].behind)
    assert {path: found.counts[path] for path in ("", "layers.0", "layers.2.linear")} == {
        "": 1,
        "layers.0": 1,
        "layers.2.linear": 1,
    }


def test_what_was_written_to_in_between_is_another_tensor() -> None:
    def run(model: Any, hidden: Tensor) -> Tensor:
        behind = model.layers[0](hidden)
        behind += 1
        result: Tensor = model.layers[1](behind)
        return result

    assert [call.enters for call in traced(run, plain, plain).calls] == [True, True]


def by_name(block: Any, mask: Tensor, hidden_states: Tensor) -> Tensor:
    return plain(block, hidden_states) * mask


def test_hidden_states_are_found_by_place_and_by_name() -> None:
    def run(model: Any, hidden: Tensor) -> Tensor:
        mask = torch.ones(1, 4, 1)
        hidden = model.layers[0](mask=mask, hidden_states=hidden)
        hidden = model.layers[1](torch.arange(4), hidden)  # the first numbers with a point
        result: Tensor = model.layers[2](mask=mask, hidden_states=hidden)
        return result

    found = traced(run, by_name, lambda block, ids, hidden: plain(block, hidden), by_name)
    assert [call.arguments.site.hidden for call in found.calls] == ["hidden_states", 1, "hidden_states"]
    assert [call.enters for call in found.calls] == [True, False, False]
    assert [sorted(call.arguments.kwargs) for call in found.calls] == [["mask"], [], ["mask"]]
    torch.testing.assert_close(found.calls[1].arguments.args, (torch.arange(4), None))


def test_the_output_is_the_one_that_the_next_block_is_handed() -> None:
    def run(model: Any, hidden: Tensor) -> Tensor:
        _, hidden, _ = model.layers[0](hidden)
        result: Tensor = model.layers[1](hidden)
        return result

    def several(block: Any, hidden: Tensor) -> tuple[Tensor, Tensor, str]:
        return hidden.softmax(-1), plain(block, hidden), "more"

    call = traced(run, several, plain).calls[0]
    assert call.arguments.site.output == 1
    torch.testing.assert_close(call.behind, plain(call.module, call.front))
    handed = call.arguments.site.handed_on(torch.ones(1, 1, WIDTH))
    assert (handed[0], handed[2]) == (None, "more")
    assert torch.equal(handed[1], torch.ones(1, 1, WIDTH))


def with_bias(depends: bool) -> Any:
    """Return a block that gives a tensor to others, which depends on its hidden states or does not."""

    def run(block: Any, hidden: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if bias is None:
            bias = hidden.sum(-1, keepdim=True) if depends else block.linear.weight.sum() * torch.ones(1, 4, 1)
        return plain(block, hidden) + bias, bias

    return run


@pytest.mark.parametrize("depends", [False, True])
def test_a_first_block_that_gives_more_than_hidden_states(depends: bool) -> None:
    def run(model: Any, hidden: Tensor) -> Tensor:
        bias = None
        for layer in model.layers:
            hidden, bias = layer(hidden, bias)
        return hidden

    found = traced(run, *[with_bias(depends)] * 3)
    assert [call.hands_more for call in found.calls] == [not depends, False, False]
    assert [call.arguments.site.gives for call in found.calls] == [(Given(1),) if depends else (), (), ()]
    assert not any(call.takes_more or call.mutates for call in found.calls)
    assert found.given.keys() == ({Carried(0, 0)} if depends else set())


def test_a_later_block_that_gives_more_than_hidden_states() -> None:
    def run(model: Any, hidden: Tensor) -> Tensor:
        hidden = model.layers[0](hidden)
        hidden, bias = model.layers[1](hidden)
        hidden, _ = model.layers[2](hidden, bias)
        return hidden

    found = traced(run, plain, with_bias(False), with_bias(False))
    assert not any(call.hands_more for call in found.calls)
    assert [call.arguments.site.gives for call in found.calls] == [(), (Given(1),), ()]
    block: Any = found.calls[1].module
    torch.testing.assert_close(found.given[Carried(1, 0)], block.linear.weight.sum() * torch.ones(1, 4, 1))


def test_a_block_of_another_segment_that_gives_more() -> None:
    def run(model: Any, hidden: Tensor) -> Tensor:
        hidden, bias = model.layers[0](hidden)
        hidden, _ = model.layers[1](hidden * 2, bias)
        return hidden

    assert [call.takes_more for call in traced(run, *[with_bias(True)] * 2).calls] == [False, True]


def test_what_blocks_put_into_a_mapping_that_they_share() -> None:
    def block(part: Any, hidden: Tensor, table: dict[str, Tensor], masks: dict[str, Tensor]) -> Tensor:
        if "keys" not in table:
            table["keys"] = part.linear(hidden)
        return plain(part, hidden) + table["keys"] + masks["full"]

    def run(model: Any, hidden: Tensor) -> Tensor:
        table, masks = dict[str, Tensor](), {"full": torch.ones(1, 4, 1)}
        for layer in model.layers:
            hidden = layer(hidden, table, masks)
        return hidden

    found = traced(run, block, block)
    assert not any(call.mutates or call.takes_more for call in found.calls)
    assert [call.arguments.site.gives for call in found.calls] == [(Given(0, 1, "keys"),), ()]
    keys = found.given[Carried(0, 0)]
    torch.testing.assert_close(keys, found.calls[0].module.get_submodule("linear")(found.calls[0].front))
    first, second = (call.arguments for call in found.calls)
    assert [call.needs() for call in (first, second)] == [[], [Carried(0, 0)]]
    # A run of the second block on what the first one gave is as it was in the model.
    behind = second.bound(lambda carried: found.given[carried])(found.calls[1].module, found.calls[1].front)
    torch.testing.assert_close(behind, found.calls[1].behind)
    assert first.args[1].contents == {}
    assert torch.equal(second.args[2]["full"], torch.ones(1, 4, 1))  # the model's own stays as it is


class Shared:
    def __init__(self) -> None:
        self.known: dict[str, list[Tensor]] = {"keys": []}


@pytest.mark.parametrize("writes", ["no", "tensor", "a list inside"])
def test_a_block_that_changes_what_it_is_handed(writes: str) -> None:
    def block(part: Any, hidden: Tensor, table: Tensor, shared: Shared) -> Tensor:
        if writes == "tensor":
            table.add_(1)
        elif writes == "a list inside":
            shared.known["keys"].append(hidden + 1)
        hidden.add_(1)  # which every block may do
        return plain(part, hidden)

    def run(model: Any, hidden: Tensor) -> Tensor:
        result: Tensor = model.layers[0](hidden.clone(), torch.zeros(4), Shared())
        return result

    assert traced(run, block).calls[0].mutates == (writes != "no")


def test_a_block_is_looked_at_as_it_is_and_stays_so() -> None:
    seen: list[tuple[str, Tensor]] = []

    def look(call: TracedCall) -> None:
        seen.append((call.path, call.arguments(call.module, call.front)))  # its own method

    model = Scripted(chain, plain, plain)
    found = trace(model, blocks_of(model), x(), lambda module, path: nullcontext(), look)
    assert [path for path, _ in seen] == ["layers.0", "layers.1"]
    for call, (_, behind) in zip(found.calls, seen, strict=True):
        torch.testing.assert_close(behind, call.behind)
    assert not any("forward" in vars(layer) or layer._forward_pre_hooks for layer in model.layers)


def test_fingerprints_tell_of_places_and_not_of_rounding() -> None:
    tensor = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    ours = fingerprint({"a": tensor, "b": [None, tensor.int()]})
    assert len(ours) == 2
    assert same_fingerprints([ours], [fingerprint({"a": tensor * (1 + 1e-7), "b": [None, tensor.int()]})]) is None
    assert same_fingerprints([ours, ours], [ours, fingerprint([tensor.flip(0), tensor.int()])]) == 1
    assert same_fingerprints([ours], [fingerprint([tensor.T, tensor.int()])]) == 0
    assert same_fingerprints([ours], [fingerprint([tensor.double(), tensor.int()])]) == 0
    assert same_fingerprints([ours], [fingerprint([tensor])]) == 0
    call = BlockArguments((None, tensor), {"mask": tensor.int()})
    assert fingerprint_of(call, None) == ours
    assert fingerprint_of(call, tensor.flip(1))[1:] == ours
