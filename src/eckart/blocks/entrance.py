"""Runs what a model computes outside of its blocks: in front of them, between them and behind them.

No block is run: each gives what is known that it gave, or hands on what it was handed where nobody looks at it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from eckart.blocks.block import Block
from eckart.blocks.block_arguments import BlockArguments, CallSite, Inputs, body_of, replaced_forwards, run_model
from eckart.blocks.carried import Carried
from eckart.errors import UnsupportedModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Outputs = Mapping[int, Tensor]
"""Hidden states behind blocks, by their numbers."""


class _StopForwardError(Exception):
    """Ends a forward pass as soon as what it was run for is known. Never leaves this module."""


@dataclass(frozen=True)
class Entered:
    """What the model's own code makes of its inputs, and of what earlier blocks gave.

    Attributes:
        hidden: states in front of the first block of a segment.
        arguments: how each block of the segment is called.
    """

    hidden: Tensor
    arguments: list[BlockArguments]


def segment_of(blocks: Sequence[Block], number: int) -> range:
    """Return the numbers of the blocks from block ``number`` on that hand their outputs straight to one another."""
    end = number + 1
    while end < len(blocks) and not blocks[end].enters:
        end += 1
    return range(number, end)


def enter(
    model: PreTrainedModel,
    blocks: Sequence[Block],
    first: int,
    inputs: Inputs,
    outputs: Outputs | None = None,
    *,
    run: Callable[..., Any] | None = None,
) -> Entered:
    """Return what the blocks from block ``first`` on are handed.

    Args:
        model: what is not in its blocks must be where ``inputs`` are.
        blocks: all of the model's, in the order in which they are run.
        first: number of the first block of a segment; it is run if it hands on more than hidden states.
        inputs: of the model.
        outputs: of earlier blocks, at least of those that are tapped.
        run: the first block of the segment, if another one is to be run in its place.

    Raises:
        UnsupportedModelError: the model calls its blocks in another way than on the tokens that it was probed with.
    """
    segment = segment_of(blocks, first)
    markers: dict[int, tuple[Tensor, Carried]] = {}  # by address: tensors that stand for what blocks will give
    found: list[BlockArguments] = []
    hidden: list[Tensor] = []
    more: list[tuple[Any, ...] | None] = [None]

    def stand_in(number: int, own: Callable[..., Any]) -> Callable[..., Any]:
        site = blocks[number].site

        def forward(*args: Any, **kwargs: Any) -> Any:
            front = _hidden_of(args, kwargs, site)
            if number < first:
                return site.handed_on(_given(outputs or {}, number, front), None, _leaves(args, kwargs, site))
            if number != first + len(found):
                raise UnsupportedModelError(
                    f"{type(model).__name__} runs {blocks[number].path} where {blocks[first + len(found)].path} was "
                    "expected; it ran them in another order before. Such models cannot be compressed yet."
                )
            call = BlockArguments.of(args, kwargs, site)
            leaves = call.flat()[0]
            found.append(call.with_leaves([markers[id(leaf)][1] if id(leaf) in markers else leaf for leaf in leaves]))
            if number == first:
                hidden.append(front)
                if blocks[number].hands_more:
                    with replaced_forwards([blocks[number].called], lambda _, __: own):  # it may be run as a module
                        more[0] = tuple(tree_flatten((run or own)(*args, **kwargs))[0])
            if number == segment[-1]:
                raise _StopForwardError
            handed = site.handed_on(front, more[0] if number == first else None, leaves)
            return _marked(handed, number, site, markers)

        return forward

    with replaced_forwards([block.called for block in blocks], stand_in), suppress(_StopForwardError):
        run_model(body_of(model, inputs, [block.path for block in blocks]), inputs)
    if len(found) != len(segment):
        raise UnsupportedModelError(
            f"{type(model).__name__} runs {len(found)} of the {len(segment)} blocks from {blocks[first].path} on; it "
            "ran all of them before. Layers that are run for some inputs only cannot be compressed yet."
        )
    return Entered(hidden[0], _with_slots(found))


def _with_slots(calls: Sequence[BlockArguments]) -> list[BlockArguments]:
    """Return the calls with a number for each tensor that they hand over."""
    slots: dict[object, int] = {}

    def slot(leaf: Any) -> int:
        return slots.setdefault(leaf if isinstance(leaf, Carried) else id(leaf), len(slots))

    return [replace(call, slots=tuple(map(slot, call.flat()[0]))) for call in calls]


def run_outside(model: PreTrainedModel, blocks: Sequence[Block], inputs: Inputs, outputs: Outputs) -> Any:
    """Return what the model gives if its blocks gave ``outputs``.

    Args:
        model: as a whole, or without its head; what is outside of its blocks must be where ``inputs`` are.
        blocks: all of the model's.
        inputs: of the model.
        outputs: of the last block, and of those that are tapped.
    """

    def stand_in(number: int, _: Callable[..., Any]) -> Callable[..., Any]:
        site = blocks[number].site

        def forward(*args: Any, **kwargs: Any) -> Any:
            hidden = _given(outputs, number, _hidden_of(args, kwargs, site))
            return site.handed_on(hidden, None, _leaves(args, kwargs, site))

        return forward

    with replaced_forwards([block.called for block in blocks], stand_in):
        return run_model(model, inputs)


def _given(outputs: Outputs, number: int, front: Tensor) -> Tensor:
    """Return a copy of what a block gave, since the model may write into it; what it is handed where nobody looks."""
    known = outputs.get(number)
    return front if known is None else known.clone()


def _marked(handed: Any, number: int, site: CallSite, markers: dict[int, tuple[Tensor, Carried]]) -> Any:
    """Return what a block hands on, with a marker in the place of each tensor that it gives to later blocks."""
    places = {given.leaf: n for n, given in enumerate(site.gives) if given.place is None}
    if not places:
        return handed
    leaves, form = tree_flatten(handed)
    for leaf, n in places.items():
        leaves[leaf] = torch.empty(0)
        markers[id(leaves[leaf])] = leaves[leaf], Carried(number, n)
    return tree_unflatten(leaves, form)


def _leaves(args: tuple[Any, ...], kwargs: Mapping[str, Any], site: CallSite) -> list[Any]:
    return BlockArguments.of(args, kwargs, site).flat()[0]


def _hidden_of(args: tuple[Any, ...], kwargs: Mapping[str, Any], site: CallSite) -> Tensor:
    if isinstance(site.hidden, int) and site.hidden < len(args):
        found = args[site.hidden]
    else:
        found = kwargs.get(site.hidden) if isinstance(site.hidden, str) else None
    return found if isinstance(found, Tensor) else torch.empty(0)
