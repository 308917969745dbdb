"""Runs a block over hidden states and collects what the objectives need: passes, nothing else.

Hidden states are those of all calibration tokens between two blocks, in the model's dtype: one (..., width) tensor a
batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from eckart import processes
from eckart.blocks.argument_table import Arguments
from eckart.blocks.block import Group, LinearRef, hooks
from eckart.blocks.block_arguments import BlockArguments
from eckart.blocks.fused_runs import put_together
from eckart.blocks.input_sums import InputSums
from eckart.blocks.mixture_run import watched
from eckart.blocks.residual import FRONT, reading, rows
from eckart.blocks.shared_sums import add_moments
from eckart.blocks.tensor_cache import TensorCache
from eckart.device import compute_dtype, moment_device
from eckart.errors import UnsupportedModelError
from eckart.layers import bias_vector, input_of
from eckart.layers.rows import rows_asked
from eckart.maths.moments import Moments
from eckart.maths.soft_truncation import add_projector

HiddenStates = TensorCache


def gather(stream: HiddenStates, sequences: Tensor, at_once: int, device: torch.device) -> Tensor:
    """Return sequences of a stream by their numbers, (sequences, length, width), on the device.

    Args:
        stream: of all sequences.
        sequences: numbers; a single one where each is a batch by itself.
        at_once: sequences in a batch of the stream.
        device: where the result is needed.
    """
    if at_once == 1:
        (index,) = sequences.tolist()
        found: Tensor = stream[index]
        return found.to(device)
    rows = [stream[index // at_once][index % at_once] for index in sequences.tolist()]
    return torch.stack(rows).to(device)


@dataclass(frozen=True)
class BlockPass:
    """A block that is onloaded, and how it is run.

    Attributes:
        module: the block.
        arguments: how the model calls it.
        device: where it is.
        fixed: names of its parameters that training leaves as they are.
    """

    module: nn.Module
    arguments: Arguments
    device: torch.device
    fixed: frozenset[str] = frozenset()

    def over(self, stream: Iterable[Tensor]) -> Iterator[tuple[BlockArguments, Tensor]]:
        """Yield each batch of hidden states in the dtype of the block's weights, and how the block is called for it."""
        for batch, hidden in enumerate(stream):
            yield self.arguments.of(hidden, batch), self.given(hidden)

    def run(self, batch: int, call: BlockArguments, hidden: Tensor) -> Tensor:
        """Run the block and return the hidden states that it hands on; what else it gives later blocks is kept."""
        output = call.run(self.module, hidden)
        self.arguments.keep(batch, call, output)
        return call.site.result(output)

    def given(self, hidden: Tensor) -> Tensor:
        """Return hidden states as the block is handed them; a copy, since it may write into them."""
        return hidden.to(self.device, compute_dtype(hidden.dtype, self.device), copy=True)


class _StopForwardError(Exception):
    """Ends a forward pass as soon as what it was run for is known. Never leaves this module."""


@dataclass(frozen=True)
class GroupInputs:
    """What a pass of the original model's hidden states through a block leaves for the pairs of tokens, batch by batch.

    Attributes:
        inputs: of each group.
        output_energies: ``||W x||^2`` of each linear.
        residuals: residual streams by their places; in front of the block, that is the stream itself.
        mixtures: hidden states that mixtures of experts are handed, by their names in the block.
    """

    inputs: dict[Group, TensorCache]
    output_energies: dict[LinearRef, float]
    residuals: dict[str, TensorCache] = field(default_factory=dict)
    mixtures: dict[str, TensorCache] = field(default_factory=dict)

    def delete(self) -> None:
        """Give back what the streams inside the block take."""
        for place, cache in (*self.residuals.items(), *self.mixtures.items()):
            if cache is not self.residuals.get(FRONT) or place != FRONT:
                cache.delete()


def input_moments(
    block: BlockPass,
    groups: tuple[Group, ...],
    stream: HiddenStates,
    behind: HiddenStates | None = None,
) -> dict[Group, Moments]:
    """Return the moments of all groups and, if wanted, write the hidden states ``behind`` the block, in one pass."""
    apart = tuple(part for group in groups for part in group.apart)
    sums = InputSums(apart, block.device)
    for batch, (call, hidden) in enumerate(block.over(stream)):
        with watched(block.module, apart) as runs:
            inputs, output = capture_inputs(block.module, partial(block.run, batch, call), hidden, apart)
        sums.add(inputs, runs)
        if behind is not None:
            assert output is not None
            behind.append(output)
    return put_together(groups, sums.result())


def group_inputs(
    block: BlockPass,
    groups: tuple[Group, ...],
    stream: HiddenStates,
    behind: HiddenStates | None,
    cache: Callable[[str, torch.dtype], TensorCache],
) -> GroupInputs:
    """Return the inputs of all groups themselves, and write the hidden states ``behind`` the block, in one pass.

    Args:
        block: as it is in the original model.
        groups: whose inputs are kept.
        stream: in front of the block.
        behind: an empty cache for the hidden states behind it, if they are wanted.
        cache: makes an empty cache from a name and a dtype.
    """
    kept: dict[Group, TensorCache] = {}
    energies: dict[LinearRef, float] = {}
    residuals = {FRONT: stream} if FRONT in _places(groups) else {}
    mixtures: dict[str, TensorCache] = {}
    inside = sorted(_places(groups) - {FRONT})
    apart = [part for group in groups for part in group.apart]
    for batch, (call, hidden) in enumerate(block.over(stream)):
        run = partial(block.run, batch, call)
        with reading(block.module, inside) as read, watched(block.module, apart, weigh=False) as runs:
            inputs, output = capture_inputs(block.module, run, hidden, groups, output_energies=energies)
        for index, place in enumerate(inside):
            if place not in residuals:
                residuals[place] = cache(f"residual-{index}", read[place].dtype)
            residuals[place].append(read[place])
        for index, (mixture, seen) in enumerate(runs.items()):
            if mixture not in mixtures:
                mixtures[mixture] = cache(f"mixture-{index}", seen.hidden.dtype)
            mixtures[mixture].append(seen.hidden)
        for index, (group, tokens) in enumerate(inputs.items()):
            if group.routed:  # other tokens than in the compressed model
                continue
            if group not in kept:
                kept[group] = cache(f"inputs-{index}", tokens.dtype)
            kept[group].append(tokens)
        if behind is not None:
            assert output is not None
            behind.append(output)
    if not len(stream):  # all that there is to be read is there, and empty
        kept = {g: cache(f"inputs-{index}", stream.dtype) for index, g in enumerate(groups) if not g.routed}
        residuals |= {place: cache(f"residual-{index}", stream.dtype) for index, place in enumerate(inside)}
    refs = [ref for group in groups for ref in group.linears]
    energies = dict(zip(refs, processes.total(*(energies.get(ref, 0.0) for ref in refs)), strict=True))
    return GroupInputs(kept, energies, residuals, mixtures)


def group_moments(
    block: BlockPass,
    group: Group,
    stream: HiddenStates,
    originals: TensorCache | None = None,
    residuals: Mapping[str, TensorCache] | None = None,
) -> Moments:
    """Return the moments of one group, in a pass that ends where the group is reached.

    Args:
        block: as compressed so far.
        group: whose inputs are summed.
        stream: in front of the block, of the compressed model.
        originals: the inputs of the group in the original model, batch by batch, if both streams are wanted.
        residuals: the residual streams of the original model by their places, batch by batch, if they are wanted.

    Raises:
        UnsupportedModelError: the two streams hand different tokens to the group.
    """
    moments = empty_moments(group, block.device, paired=originals is not None)
    places = sorted(_places((group,)) & (residuals or {}).keys())
    for index, (call, hidden) in enumerate(block.over(stream)):
        with reading(block.module, places) as read:
            inputs, _ = capture_inputs(block.module, partial(call, block.module), hidden, (group,), stop=True)
        original = None if originals is None else originals[index].to(block.device)
        if original is not None and original.shape != inputs[group].shape:
            raise UnsupportedModelError(
                f"{group.linears[0].path} is handed {len(original)} tokens in the original model and "
                f"{len(inputs[group])} in the compressed one, so they cannot be paired. "
                "Use an objective that looks at one stream, such as --set objective=input-aware."
            )
        moments.add(inputs[group], original)
        for place in places:
            assert residuals is not None
            before = rows(residuals[place][index]).to(block.device)
            moments.add_residual(place, before.float() - read[place].float(), inputs[group])
    add_moments([moments])
    return moments


def output_projectors(
    block: BlockPass, ranks: Mapping[LinearRef, int], stream: HiddenStates
) -> dict[LinearRef, Tensor]:
    """Return, for each linear, the sum over sequences of the projectors on their leading output directions.

    Args:
        block: as it is in the original model.
        ranks: how many directions of each sequence are taken.
        stream: in front of the block.

    Returns:
        (m, m) float64 for each linear.
    """
    totals = {
        ref: torch.zeros(ref.out_features, ref.out_features, dtype=torch.float64, device=moment_device(block.device))
        for ref in ranks
    }

    def add(ref: LinearRef) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        def hook(linear: nn.Module, _: tuple[Any, ...], output: Tensor) -> None:
            bias = bias_vector(linear)
            product = output if bias is None else output - bias
            for sequence in product.reshape(-1, *product.shape[-2:]):
                add_projector(totals[ref], sequence, ranks[ref])

        return hook

    with hooks() as handles, torch.no_grad():
        for ref in ranks:
            handles.append(block.module.get_submodule(ref.name).register_forward_hook(add(ref)))
        for call, hidden in block.over(stream):
            call(block.module, hidden)
    processes.add(totals.values())
    return totals


def advance(block: BlockPass, stream: HiddenStates, behind: HiddenStates) -> None:
    """Write the hidden states ``behind`` the block."""
    with torch.no_grad():
        for batch, (call, hidden) in enumerate(block.over(stream)):
            behind.append(block.run(batch, call, hidden))


def _places(groups: tuple[Group, ...]) -> set[str]:
    """Return the places of the residual streams that outputs of the linears of ``groups`` are added to."""
    return {ref.residual for group in groups for ref in group.linears if ref.residual is not None}


def empty_moments(group: Group, device: torch.device, *, paired: bool = False) -> Moments:
    """Return empty sums for the inputs of a group of linears that are run on ``device``."""
    return Moments.zeros(group.linears[0].in_features, paired=paired, device=moment_device(device))


def capture_inputs(
    block: nn.Module,
    run: Callable[[Tensor], Tensor],
    hidden: Tensor,
    groups: tuple[Group, ...],
    *,
    stop: bool = False,
    output_energies: dict[LinearRef, float] | None = None,
) -> tuple[dict[Group, Tensor], Tensor | None]:
    """Run a block on one batch and return the inputs of its groups, and the hidden states that it hands on.

    Args:
        block: the module to run.
        run: runs it on hidden states.
        hidden: (..., width).
        groups: those whose inputs are wanted.
        stop: whether to end the pass at the last of ``groups``; then no hidden states are returned.
        output_energies: is added ``||W x||^2`` of this batch for each linear, if given.

    Returns:
        The inputs of each group, (tokens, in features); no tokens where a group was not reached.
    """
    seen: dict[Group, list[Tensor]] = {group: [] for group in groups}
    stop_at = groups[-1] if stop and groups[-1].runs_once else None

    def record(group: Group) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
            seen[group].append(input_of(args, kwargs).detach().flatten(0, -2))
            if group is stop_at:
                raise _StopForwardError

        return hook

    def measure(ref: LinearRef) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        def hook(linear: nn.Module, args: tuple[Any, ...], result: Tensor) -> None:
            bias, asked = bias_vector(linear), rows_asked(args)
            bias = bias if bias is None or asked is None else bias[asked]
            product = result if bias is None else result - bias
            assert output_energies is not None
            output_energies[ref] = output_energies.get(ref, 0.0) + float(product.float().square().sum())

        return hook

    output = None
    with hooks() as handles, torch.no_grad():
        if output_energies is not None:
            for ref in (ref for group in groups for ref in group.linears):
                handles.append(block.get_submodule(ref.name).register_forward_hook(measure(ref)))
        for group in groups:
            leader = block.get_submodule(group.linears[0].name)
            handles.append(leader.register_forward_pre_hook(record(group), with_kwargs=True))
        with suppress(_StopForwardError):
            output = run(hidden)
    inputs = {
        group: _joined(parts) if parts else hidden.new_zeros(0, group.linears[0].in_features)
        for group, parts in seen.items()
    }
    return inputs, output


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
