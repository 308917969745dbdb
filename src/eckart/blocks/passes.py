"""Runs a block over a stream of hidden states and collects what the objectives need: passes, nothing else.

A stream is the hidden states of all calibration tokens between two blocks, in the model's dtype: one
(batch, length, width) tensor a batch. Calls are looked up by (batch, length), since masks and positions depend on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from eckart.blocks.block_arguments import BlockCall
from eckart.blocks.discovery import Group, Target, hooks
from eckart.blocks.residual import FRONT, reading, rows
from eckart.blocks.tensor_cache import Spool
from eckart.device import compute_dtype, moment_device
from eckart.errors import UnsupportedModelError
from eckart.layers import bias_vector
from eckart.maths.moments import Moments
from eckart.maths.soft_truncation import add_projector

Stream = Spool
Calls = Mapping[torch.Size, BlockCall]


def gather(stream: Stream, sequences: Tensor, device: torch.device) -> Tensor:
    """Return sequences of a stream by their numbers, (sequences, length, width), on the device."""
    at_once = stream[0].shape[0]
    rows = [stream[index // at_once][index % at_once] for index in sequences.tolist()]
    return torch.stack(rows).to(device)


class _StopForwardError(Exception):
    """Ends a forward pass as soon as what it was run for is known. Never leaves this module."""


@dataclass(frozen=True)
class GroupInputs:
    """What a pass of the original stream through a block leaves for the pairs of tokens, batch by batch.

    Attributes:
        inputs: of each group.
        output_energies: ``||W x||^2`` of each linear.
        residuals: residual streams by their places; in front of the block, that is the stream itself.
    """

    inputs: dict[Group, Spool]
    output_energies: dict[Target, float]
    residuals: dict[str, Spool] = field(default_factory=dict)

    def delete_residuals(self) -> None:
        """Give back what the residual streams inside the block take."""
        for place, spool in self.residuals.items():
            if place != FRONT:
                spool.delete()


def input_moments(
    block: nn.Module,
    groups: tuple[Group, ...],
    calls: Calls,
    stream: Stream,
    device: torch.device,
    behind: Stream | None = None,
) -> dict[Group, Moments]:
    """Return the moments of all groups, and write the stream ``behind`` the block if it is wanted, in one pass."""
    moments = {group: empty_moments(group, device) for group in groups}
    for call, hidden in on_device(calls, stream, device):
        inputs, output = observe_inputs(block, call, hidden, groups)
        for group, tokens in inputs.items():
            moments[group].add(tokens)
        if behind is not None:
            assert output is not None
            behind.append(output)
    return moments


def group_inputs(
    block: nn.Module,
    groups: tuple[Group, ...],
    calls: Calls,
    stream: Stream,
    device: torch.device,
    behind: Stream,
    spool: Callable[[str, torch.dtype], Spool],
) -> GroupInputs:
    """Return the inputs of all groups themselves, and write the stream ``behind`` the block, in one pass.

    Args:
        block: as it is in the original model.
        groups: whose inputs are kept.
        calls: how the model calls the block.
        stream: in front of the block.
        device: where the block is.
        behind: an empty spool for the stream behind it.
        spool: makes a spool from a name and a dtype.
    """
    kept: dict[Group, Spool] = {}
    energies: dict[Target, float] = {}
    residuals = {FRONT: stream} if FRONT in _places(groups) else {}
    inside = sorted(_places(groups) - {FRONT})
    for call, hidden in on_device(calls, stream, device):
        with reading(block, inside) as read:
            inputs, output = observe_inputs(block, call, hidden, groups, output_energies=energies)
        for index, place in enumerate(inside):
            if place not in residuals:
                residuals[place] = spool(f"residual-{index}", read[place].dtype)
            residuals[place].append(read[place])
        for index, (group, tokens) in enumerate(inputs.items()):
            if group not in kept:
                kept[group] = spool(f"inputs-{index}", tokens.dtype)
            kept[group].append(tokens)
        assert output is not None
        behind.append(output)
    return GroupInputs(kept, energies, residuals)


def group_moments(
    block: nn.Module,
    group: Group,
    calls: Calls,
    stream: Stream,
    device: torch.device,
    originals: Spool | None = None,
    residuals: Mapping[str, Spool] | None = None,
) -> Moments:
    """Return the moments of one group, in a pass that ends where the group is reached.

    Args:
        block: as compressed so far.
        group: whose inputs are summed.
        calls: how the model calls the block.
        stream: in front of the block, of the compressed model.
        device: where the block is.
        originals: the inputs of the group in the original model, batch by batch, if both streams are wanted.
        residuals: the residual streams of the original model by their places, batch by batch, if they are wanted.

    Raises:
        UnsupportedModelError: the two streams hand different tokens to the group, as routed experts do.
    """
    moments = empty_moments(group, device, paired=originals is not None)
    places = sorted(_places((group,)) & (residuals or {}).keys())
    for index, (call, hidden) in enumerate(on_device(calls, stream, device)):
        with reading(block, places) as read:
            inputs, _ = observe_inputs(block, call, hidden, (group,), stop=True)
        original = None if originals is None else originals[index].to(device)
        if original is not None and original.shape != inputs[group].shape:
            raise UnsupportedModelError(
                f"{group.targets[0].path} is handed {len(original)} tokens in the original model and "
                f"{len(inputs[group])} in the compressed one, so they cannot be paired. "
                "Use an objective that looks at one stream, such as --set objective=input-aware."
            )
        moments.add(inputs[group], original)
        for place in places:
            assert residuals is not None
            before = rows(residuals[place][index]).to(device)
            moments.add_residual(place, before.float() - read[place].float(), inputs[group])
    return moments


def output_projectors(
    block: nn.Module, ranks: Mapping[Target, int], calls: Calls, stream: Stream, device: torch.device
) -> dict[Target, Tensor]:
    """Return, for each linear, the sum over sequences of the projectors on their leading output directions.

    Args:
        block: as it is in the original model.
        ranks: how many directions of each sequence are taken.
        calls: how the model calls the block.
        stream: in front of the block.
        device: where the block is.

    Returns:
        (m, m) float64 for each linear.
    """
    totals = {
        target: torch.zeros(target.out_features, target.out_features, dtype=torch.float64, device=moment_device(device))
        for target in ranks
    }

    def add(target: Target) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        def hook(linear: nn.Module, _: tuple[Any, ...], output: Tensor) -> None:
            bias = bias_vector(linear)
            product = output if bias is None else output - bias
            for sequence in product.reshape(-1, *product.shape[-2:]):
                add_projector(totals[target], sequence, ranks[target])

        return hook

    with hooks() as handles, torch.no_grad():
        for target in ranks:
            handles.append(block.get_submodule(target.name).register_forward_hook(add(target)))
        for call, hidden in on_device(calls, stream, device):
            call(block, hidden)
    return totals


def advance(block: nn.Module, calls: Calls, stream: Stream, device: torch.device, behind: Stream) -> None:
    """Write the stream ``behind`` the block."""
    with torch.no_grad():
        for call, hidden in on_device(calls, stream, device):
            behind.append(call(block, hidden))


def on_device(calls: Calls, stream: Stream, device: torch.device) -> Iterator[tuple[BlockCall, Tensor]]:
    """Yield each batch of a stream, as the block's weights are placed, and how the block is called for it."""
    dtype = compute_dtype(stream.dtype, device)  # the block's weights have it too
    for hidden in stream:
        # A copy, since a block may write into what it is given.
        yield calls[hidden.shape[:2]], hidden.to(device, dtype, copy=True)


def _places(groups: tuple[Group, ...]) -> set[str]:
    """Return the places of the residual streams that outputs of the linears of ``groups`` are added to."""
    return {target.residual for group in groups for target in group.targets if target.residual is not None}


def empty_moments(group: Group, device: torch.device, *, paired: bool = False) -> Moments:
    """Return empty sums for the inputs of a group of linears that are run on ``device``."""
    return Moments.zeros(group.targets[0].in_features, paired=paired, device=moment_device(device))


def observe_inputs(
    block: nn.Module,
    call: BlockCall,
    hidden: Tensor,
    groups: tuple[Group, ...],
    *,
    stop: bool = False,
    output_energies: dict[Target, float] | None = None,
) -> tuple[dict[Group, Tensor], Tensor | None]:
    """Run a block on one batch and return the inputs of its groups, and the hidden states that it hands on.

    Args:
        block: the module to run.
        call: how the model calls it.
        hidden: (batch, length, width).
        groups: those whose inputs are wanted.
        stop: whether to end the pass at the last of ``groups``; then no hidden states are returned.
        output_energies: is added ``||W x||^2`` of this batch for each linear, if given.

    Returns:
        The inputs of each group, (tokens, in features); no tokens where a group was not reached.
    """
    seen: dict[Group, list[Tensor]] = {group: [] for group in groups}
    stop_at = groups[-1] if stop and groups[-1].runs_once else None

    def keep(group: Group) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
            seen[group].append(args[0].flatten(0, -2))
            if group is stop_at:
                raise _StopForwardError

        return hook

    def measure(target: Target) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        def hook(linear: nn.Module, _: tuple[Any, ...], result: Tensor) -> None:
            bias = bias_vector(linear)
            product = result if bias is None else result - bias
            assert output_energies is not None
            output_energies[target] = output_energies.get(target, 0.0) + float(product.float().square().sum())

        return hook

    output = None
    with hooks() as handles, torch.no_grad():
        if output_energies is not None:
            for target in (target for group in groups for target in group.targets):
                handles.append(block.get_submodule(target.name).register_forward_hook(measure(target)))
        for group in groups:
            leader = block.get_submodule(group.targets[0].name)
            handles.append(leader.register_forward_pre_hook(keep(group)))
        with suppress(_StopForwardError):
            output = call(block, hidden)
    inputs = {
        group: torch.cat(parts) if parts else hidden.new_zeros(0, group.targets[0].in_features)
        for group, parts in seen.items()
    }
    return inputs, output
