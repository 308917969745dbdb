"""What is kept of how blocks are called: once what is the same, for each batch what is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from eckart.blocks.argument_table import MOST_SHAPES, Arguments, ArgumentTable, forked
from eckart.blocks.block_arguments import BlockArguments, CallSite
from eckart.blocks.carried import Carried, Given
from eckart.blocks.tensor_cache import ScratchSpace

CPU = torch.device("cpu")
BIAS = torch.randn(1, 5, 5)  # the same for all batches


def calls(state: Tensor, mask: Tensor, bias: Tensor = BIAS, **more: Any) -> list[BlockArguments]:
    """Return how two blocks are called: both with the same states, one with a mask, and neither with a cache."""
    return [
        BlockArguments((None, mask), {"states": state, "bias": bias, "cache": None, **more}),
        BlockArguments((None,), {"states": state, "nested": {"bias": [bias]}}),
    ]


def given(seed: int, rows: int = 7, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(1, rows, 4, generator=generator).to(dtype)
    return states, torch.randint(2, (1, 5), generator=generator).bool()


@pytest.fixture(params=["memory", "files"])
def scratch(request: pytest.FixtureRequest, tmp_path: Path) -> ScratchSpace:
    return ScratchSpace(request.param == "memory", tmp_path)


def hidden(length: int = 5) -> Tensor:
    return torch.zeros(1, length, 4)


def same(ours: BlockArguments, theirs: BlockArguments) -> bool:
    (leaves, form), (others, other) = ours.flat(), theirs.flat()
    return form == other and all(
        torch.equal(a, b) and a.dtype == b.dtype if isinstance(a, Tensor) else a is b
        for a, b in zip(leaves, others, strict=True)
    )


def test_what_is_the_same_is_kept_once(scratch: ScratchSpace) -> None:
    table = ArgumentTable(scratch.cache, "", CPU)
    state, mask = given(0)
    expected = calls(state, mask)
    for batch in range(3):
        table.add(batch, hidden(), calls(state.clone(), mask.clone(), BIAS.clone()))
    assert not table.varies
    for number in range(2):
        found = [Arguments(table, number, 5 + number).of(hidden(), batch) for batch in (0, 1, 2, None)]
        assert same(found[0], expected[number])
        assert all(call is found[0] for call in found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_differs_is_kept_for_each_batch(scratch: ScratchSpace, dtype: torch.dtype) -> None:
    table = ArgumentTable(scratch.cache, "", CPU)
    for batch in range(4):
        table.add(batch, hidden(), calls(*given(batch, rows=7 + batch, dtype=dtype)))
    assert table.varies
    for batch in range(4):
        for number, expected in enumerate(calls(*given(batch, rows=7 + batch, dtype=dtype))):
            assert same(table.of(number, hidden(), batch), expected)
    # What is the same in all of them is not written down again.
    for number in range(2):
        assert any(leaf is BIAS for leaf in table.of(number, hidden(), 2).flat()[0])


def test_a_tensor_that_both_blocks_are_handed_is_written_once(scratch: ScratchSpace) -> None:
    caches = []

    def make(name: str, dtype: torch.dtype) -> Any:
        caches.append(scratch.cache(name, dtype))
        return caches[-1]

    table = ArgumentTable(make, "segment", CPU)
    for batch in range(3):
        table.add(batch, hidden(), calls(*given(batch)))
    assert {cache.dtype: len(cache) for cache in caches} == {torch.float32: 2, torch.bool: 2}
    table.delete()
    assert not table.varies


def test_another_form_is_another_call(scratch: ScratchSpace) -> None:
    table = ArgumentTable(scratch.cache, "", CPU)
    state, mask = given(0)
    table.add(0, hidden(), calls(state, mask))
    table.add(1, hidden(), calls(state, mask, extra=True))
    assert table.varies
    assert "extra" not in table.of(0, hidden(), 0).kwargs
    assert table.of(0, hidden(), 1).kwargs["extra"] is True


def test_shapes_are_those_in_front_of_the_segment(scratch: ScratchSpace) -> None:
    """A block may hand on fewer hidden states than it is handed."""
    table = ArgumentTable(scratch.cache, "", CPU)
    for batch, length in enumerate((5, 6, 5)):
        table.add(batch, hidden(length), calls(*given(length)))
    assert not table.varies
    for batch, length in enumerate((5, 6, 5)):
        assert same(table.of(1, hidden(2), batch), calls(*given(length))[1])
    table.add(None, hidden(8), calls(*given(8)))
    assert same(table.of(1, hidden(8), None), calls(*given(8))[1])


def test_more_shapes_than_are_held_are_kept_like_what_differs(scratch: ScratchSpace) -> None:
    table = ArgumentTable(scratch.cache, "", CPU)
    lengths = range(1, MOST_SHAPES + 4)
    for batch, length in enumerate(lengths):
        table.add(batch, hidden(length), calls(*given(length, rows=length)))
    assert table.varies
    for batch, length in enumerate(lengths):
        assert same(table.of(0, hidden(length), batch), calls(*given(length, rows=length))[0])


def test_what_blocks_give_to_later_ones_is_kept_for_each_batch(scratch: ScratchSpace) -> None:
    table = ArgumentTable(scratch.cache, "", CPU)
    first = BlockArguments((None,), site=CallSite(0, 0, gives=(Given(1),)))
    second = BlockArguments((None, Carried(7, 0)))
    given_by = [torch.full((2,), float(n)) for n in range(3)]
    for batch in range(3):
        table.add(batch, hidden(), [first, second])
    for _ in range(2):  # the second run takes the place of the first
        for batch, tensor in enumerate(given_by):
            Arguments(table, 0, 7).keep(batch, first, (hidden(), tensor))
    after = Arguments(table, 1, 8)
    for batch, tensor in enumerate(given_by):
        assert torch.equal(after.of(hidden(), batch).args[1], tensor)
    assert after.of(hidden(), 1, lambda carried: BIAS).args[1] is BIAS
    # Another stream has its own.
    other = forked({7: Arguments(table, 0, 7), 8: after}, "other")
    assert other[7].table is other[8].table
    for batch in range(3):
        other[7].keep(batch, first, (hidden(), -given_by[batch]))
    assert torch.equal(other[8].of(hidden(), 2).args[1], -given_by[2])
    assert torch.equal(after.of(hidden(), 2).args[1], given_by[2])
