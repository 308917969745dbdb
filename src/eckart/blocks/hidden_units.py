"""Hidden units may be in any order, so that a pivoted layer may give them in the one that it computes them in.

The rows of a weight that are pivots come first, and an index puts the outputs in order again: a pass over them at each
run. Where linears hand their outputs one by one to the inputs of another linear, as the hidden units of an MLP, the
block computes the same if rows and columns are in another order alike; one pivoted layer then needs no index. Of gate
and up, whose outputs are multiplied with one another, that is one of the two. Heads are no such units.

Found by numbers, no name is looked at: the outputs are shuffled, and put back in front of the linear that is handed
them. It must see what it saw, shuffled, and the block must give what it gave.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from eckart.blocks.block_arguments import BlockArguments
from eckart.layers import PivotedLinear, weight_matrix
from eckart.layers.permutation import inputs_permutable, outputs_permutable, permute_inputs, permute_outputs

SUMS = 1e-6  # relative error of a sum of float32 numbers in another order


@dataclass(frozen=True)
class HiddenUnits:
    """What is between linears of a block, and may be in any order that they agree on.

    Attributes:
        producers: names in the block of the linears whose outputs they are made of, one of each for a unit.
        consumer: name of the linear whose inputs they are.
    """

    producers: tuple[str, ...]
    consumer: str


def find_hidden_units(
    block: nn.Module, call: BlockArguments, hidden: Tensor, groups: Sequence[Sequence[str]]
) -> tuple[HiddenUnits, ...]:
    """Return the hidden units of a block.

    Args:
        block: as it is in the original model.
        call: how the model calls it.
        hidden: a small batch (batch, length, width).
        groups: names of the linears that are handed the same tensor and run once, in order of execution.
    """
    shapes = {name: weight_matrix(block.get_submodule(name)).shape for names in groups for name in names}
    before, expected = _run(block, call, hidden, [names[0] for names in groups])
    found = []
    for number, (consumer, *others) in enumerate(groups):
        size = shapes[consumer][1]
        made = [[name for name in names if shapes[name][0] == size] for names in groups[:number]]
        producers = next((names for names in reversed(made) if names), [])
        if others or not producers or consumer not in before:
            continue
        order = torch.randperm(size, generator=torch.Generator().manual_seed(0)).to(hidden.device)
        seen, behind = _run(block, call, hidden, [consumer], producers, order)
        shuffled = before[consumer][..., order]
        is_told_apart = not _is_close(before[consumer], shuffled)
        # What is shuffled may decide which tokens a linear is handed, or whether it is run at all.
        same = consumer in seen and _is_close(seen[consumer], shuffled)
        if is_told_apart and same and _is_close(behind, expected):
            found.append(HiddenUnits(tuple(producers), consumer))
    return tuple(found)


@dataclass(frozen=True)
class Ordered:
    """What was put in another order.

    Attributes:
        without_index: names in the block of the pivoted layers that now hold no index.
        orders: which output each one is now, (out features,), by the name of the linear, where that is another one.
    """

    without_index: list[str]
    orders: dict[str, Tensor]


def put_in_order(block: nn.Module, units: Iterable[HiddenUnits]) -> Ordered:
    """Give hidden units the order in which their first pivoted producer computes them.

    They stay as they are where a layer cannot be permuted exactly.

    Args:
        block: compressed; what it computes stays the same.
        units: that were found in it when it was not.
    """
    orders: dict[str, Tensor] = {}
    for found in units:
        producers, consumer = [block.get_submodule(n) for n in found.producers], block.get_submodule(found.consumer)
        pivoted = next((layer for layer in producers if isinstance(layer, PivotedLinear)), None)
        if pivoted is None or not (inputs_permutable(consumer) and all(map(outputs_permutable, producers))):
            continue
        order = pivoted.places().long().argsort()
        for producer in producers:
            permute_outputs(producer, order)
        permute_inputs(consumer, order)
        orders |= dict.fromkeys(found.producers, order)
    layers = {name: layer for name, layer in block.named_modules() if isinstance(layer, PivotedLinear)}
    return Ordered([name for name, layer in layers.items() if layer.drop_index_in_order()], orders)


def _run(
    block: nn.Module,
    call: BlockArguments,
    hidden: Tensor,
    names: Sequence[str],
    producers: Sequence[str] = (),
    order: Tensor | None = None,
) -> tuple[dict[str, Tensor], Tensor]:
    """Return what linears are handed, by name, and what the block hands on.

    Args:
        block: to run.
        call: how.
        hidden: (batch, length, width).
        names: of linears whose inputs are wanted; with ``order``, these are put back in order once they were read.
        producers: names of linears whose outputs are shuffled.
        order: (out features of each,).
    """
    inputs: dict[str, Tensor] = {}

    def read(name: str) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...] | None]:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            inputs[name] = args[0].clone()  # it may be written to
            return None if order is None else (args[0][..., order.argsort()], *args[1:])

        return hook

    def shuffle(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> Tensor:
        return output[..., order]

    with ExitStack() as stack, torch.no_grad():
        for name in names:
            stack.enter_context(block.get_submodule(name).register_forward_pre_hook(read(name)))
        for name in producers:
            stack.enter_context(block.get_submodule(name).register_forward_hook(shuffle))
        behind = call(block, hidden.clone())  # it may be written to
    return inputs, behind


def _is_close(ours: Tensor, theirs: Tensor) -> bool:
    """Return whether two tensors are the same but for the rounding of each number, and of sums of some.

    Never if they are of another shape, or if what is compared with is not finite.
    """
    median = theirs.float().abs().median()
    if ours.shape != theirs.shape or not torch.isfinite(median):
        return False
    step = max(torch.finfo(theirs.dtype).eps, SUMS)
    ours, theirs = ours.float(), theirs.float()
    # Some numbers of a hidden state are a thousand times as large as the others: a mean would be theirs.
    return torch.allclose(ours, theirs, rtol=step, atol=step * float(median))
