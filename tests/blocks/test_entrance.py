"""What blocks are handed, without running them, against what they are handed in a run of the whole model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.blocks.scripted import WIDTH, Scripted, plain, x
from tests.conftest import CONFIGS, make_model
from tests.tiny_models import MAKERS, blockwise, forward_inputs, make
from torch import Tensor
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from eckart.blocks.block import Block
from eckart.blocks.discovery import find_blocks
from eckart.blocks.entrance import enter, run_outside, segment_of
from eckart.blocks.losses import predictions
from eckart.errors import UnsupportedModelError


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("batch", [1, 3])
def test_calling_the_blocks_one_by_one_equals_the_model(kind: str, batch: int, tokens: Tensor) -> None:
    model = make_model(kind)
    blocks = find_blocks(model)
    with torch.no_grad():
        entered = enter(model, blocks, 0, {"input_ids": tokens[:batch]})
        hidden = entered.hidden
        reference = model.base_model(tokens[:batch], output_hidden_states=True).hidden_states
        for index, (block, call) in enumerate(zip(blocks, entered.arguments, strict=True)):
            torch.testing.assert_close(hidden, reference[index], rtol=0, atol=0)
            hidden = call(block.module, hidden)


class Called:
    """What blocks are handed and give in a run of the whole model."""

    def __init__(self, model: PreTrainedModel, blocks: list[Block], inputs: dict[str, Tensor]) -> None:
        self.handed: list[list[Tensor]] = []
        self.behind: dict[int, Tensor] = {}

        def record(number: int, args: Any, kwargs: Any, output: Any) -> None:
            self.handed.append([leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)])
            self.behind[number] = blocks[number].site.result(output)

        handles = [
            block.module.register_forward_hook(
                lambda _, args, kwargs, output, n=n: record(n, args, kwargs, output), with_kwargs=True
            )
            for n, block in enumerate(blocks)
        ]
        with torch.no_grad():
            self.output = model(**inputs)
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("kind", MAKERS)
def test_blocks_of_all_towers_are_handed_what_the_model_hands_them(kind: str) -> None:
    model, samples = make(kind)
    blocks = list(blockwise(model, samples).blocks)
    inputs = forward_inputs(model, samples[1])  # another one than the model was probed with
    given: dict[str, Any] = {**inputs}
    if kind in ("bart", "t5", "whisper"):
        given["use_cache"] = False
    expected = Called(model, blocks, given)
    tapped = {n: hidden for n, hidden in expected.behind.items() if blocks[n].tapped}
    for first in (number for number, block in enumerate(blocks) if block.enters):
        with torch.no_grad():
            entered = enter(model, blocks, first, inputs, {n: t for n, t in tapped.items() if n < first})
        assert len(entered.arguments) == len(segment_of(blocks, first))
        for place, call in enumerate(entered.arguments):
            hidden = entered.hidden if place == 0 else expected.behind[first + place - 1]
            seen = [leaf for leaf in call.flat()[0] if isinstance(leaf, Tensor)]
            theirs = list(expected.handed[first + place])
            # A model that is one block is handed no hidden states.
            for tensor in (*([hidden] if hidden.numel() else []), *seen):
                match = next((n for n, other in enumerate(theirs) if torch.equal(other, tensor)), None)
                assert match is not None, (kind, first + place)
                theirs.pop(match)
            assert not theirs
    with torch.no_grad():
        output = run_outside(model, blocks, inputs, {**tapped, len(blocks) - 1: expected.behind[len(blocks) - 1]})
    torch.testing.assert_close(predictions(output), predictions(expected.output), rtol=0, atol=0)


def test_entering_leaves_the_model_as_it_was(llama: PreTrainedModel, tokens: Tensor) -> None:
    blocks = find_blocks(llama)
    with torch.no_grad():
        before = llama(tokens).logits
        enter(llama, blocks, 0, {"input_ids": tokens})
        run_outside(llama, blocks, {"input_ids": tokens}, {2: torch.zeros(12, 24, 32)})
        assert torch.equal(llama(tokens).logits, before)
    assert all("forward" not in vars(block.module) for block in blocks)
    assert llama.config.use_cache


@pytest.mark.parametrize("gradients", [False, True])
def test_a_model_may_write_into_what_its_blocks_gave(gradients: bool) -> None:
    def run(model: Any, hidden: Tensor) -> Tensor:
        first: Tensor = model.layers[0](hidden)
        first += 1
        return model.layers[1](first)  # type: ignore[no-any-return]

    model = Scripted(run, plain, plain)
    blocks = find_blocks(model, None, x())
    assert blocks[0].tapped
    given = {number: torch.ones(1, 4, WIDTH, requires_grad=gradients) for number in (0, 1)}
    assert torch.equal(enter(model, blocks, 1, x(), given).hidden, torch.full((1, 4, WIDTH), 2.0))
    run_outside(model, blocks, x(), given)
    assert all(torch.equal(tensor, torch.ones(1, 4, WIDTH)) for tensor in given.values())


def test_tensors_that_several_blocks_are_handed_have_one_number(llama: PreTrainedModel, tokens: Tensor) -> None:
    entered = enter(llama, find_blocks(llama), 0, {"input_ids": tokens})
    numbers: dict[int, int] = {}
    for call in entered.arguments:
        leaves = call.flat()[0]
        assert len(leaves) == len(call.slots)
        for leaf, slot in zip(leaves, call.slots, strict=True):
            if isinstance(leaf, Tensor):
                assert numbers.setdefault(id(leaf), slot) == slot
    assert len(set(numbers.values())) == len(numbers) > 0


def test_a_segment_ends_where_the_model_comes_in_between() -> None:
    blocks = [
        Block(str(n), torch.nn.Identity(), (), enters=bool(enters)) for n, enters in enumerate([1, 0, 0, 1, 1, 0])
    ]
    assert [list(segment_of(blocks, n)) for n in (0, 3, 4)] == [[0, 1, 2], [3], [4, 5]]


def test_a_model_that_calls_its_blocks_in_another_way_than_it_did_is_refused() -> None:
    def run(model: Any, hidden: Tensor) -> Tensor:
        order = {4: [0, 1, 2], 5: [0, 2, 1], 6: [0, 1]}[hidden.shape[1]]
        for number in order:
            hidden = model.layers[number](hidden)
        return hidden

    model = Scripted(run, plain, plain, plain)
    blocks = find_blocks(model, None, x())
    assert len(enter(model, blocks, 0, x(seed=3)).arguments) == 3
    with pytest.raises(UnsupportedModelError, match=r"runs layers\.2 where layers\.1 was expected"):
        enter(model, blocks, 0, x(length=5))
    with pytest.raises(UnsupportedModelError, match=r"runs 2 of the 3 blocks from layers\.0 on"):
        enter(model, blocks, 0, x(length=6))
