"""Finds the blocks of a model and the groups of linears in them, by structure and one probe run.

No architecture is named.

A block is an item of the longest list of modules that holds linear layers. A group is the linears of a block that
are handed the same tensor, in order of execution.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from transformers import PreTrainedModel

from eckart.errors import UnsupportedModelError
from eckart.layers import LowRankLinear, bias_vector, is_linear, weight_matrix

PROBE_TOKENS = 16


@dataclass(frozen=True)
class Target:
    """A linear layer to be factored.

    Attributes:
        name: inside its block, such as ``self_attn.q_proj``.
        path: inside the model, such as ``model.layers.3.self_attn.q_proj``.
        out_features: m.
        in_features: n.
    """

    name: str
    path: str
    out_features: int
    in_features: int

    @property
    def shape(self) -> tuple[int, int]:
        """(out features, in features)."""
        return self.out_features, self.in_features


@dataclass(frozen=True)
class Group:
    """Linears that share an input; ``targets[0]`` is run first. ``runs_once``: a forward pass calls it exactly once."""

    targets: tuple[Target, ...]
    runs_once: bool


@dataclass(frozen=True)
class Block:
    """One block of a model: its path, its module and its groups in order of execution."""

    path: str
    module: nn.Module
    groups: tuple[Group, ...]


class _StopForwardError(Exception):
    """Ends a forward pass as soon as what it was run for is known. Never leaves this module."""


@contextmanager
def _hooks() -> Iterator[list[Any]]:
    handles: list[Any] = []
    try:
        yield handles
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class BlockCall:
    """How the model calls one block: everything but the hidden states, which come first."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __call__(self, block: nn.Module, hidden: Tensor) -> Tensor:
        """Run ``block`` on hidden states (batch, length, width) and return those that it hands on."""
        output = block(hidden, *self.args, **self.kwargs)
        return cast(Tensor, output[0] if isinstance(output, tuple) else output)

    def to(self, device: torch.device) -> BlockCall:
        """Return the call with its tensors on ``device``."""
        return BlockCall(*tree_map_only(Tensor, lambda tensor: tensor.to(device), (self.args, self.kwargs)))


def find_block_list(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Return the path and the list of the model's blocks: the longest list of modules that hold linears.

    Lists inside another such list (the experts of a block) do not count; of two equally long, the one with more
    parameters wins.

    Raises:
        UnsupportedModelError: there is none.
    """
    found: list[tuple[str, nn.ModuleList]] = []
    for path, module in model.named_modules():
        inside = any(path.startswith(f"{outer}.") for outer, _ in found)
        if isinstance(module, nn.ModuleList) and not inside and any(map(is_linear, module.modules())):
            found.append((path, module))
    if not found:
        kinds = sorted({type(module).__name__ for module in model.modules()})
        raise UnsupportedModelError(
            f"{type(model).__name__} has no list of blocks with linear layers. "
            f"Expected a decoder built of nn.Linear layers; its modules are: {', '.join(kinds)}."
        )
    return max(found, key=lambda item: (len(item[1]), sum(p.numel() for p in item[1].parameters())))


@contextmanager
def _replaced_forwards(
    blocks: nn.ModuleList, replace: Callable[[int, Callable[..., Any]], Callable[..., Any]]
) -> Iterator[None]:
    before = [vars(block).get("forward") for block in blocks]
    try:
        for index, block in enumerate(blocks):
            block.forward = replace(index, block.forward)
        yield
    finally:
        for block, forward in zip(blocks, before, strict=True):
            if forward is None:
                del block.forward
            else:
                block.forward = forward


def capture_calls(model: PreTrainedModel, tokens: Tensor) -> tuple[Tensor, list[BlockCall]]:
    """Return what the first block is given for ``tokens`` (batch, length), and how each block is called.

    Only the first block is run; the others hand their input on, so that this costs next to nothing.
    """
    _, blocks = find_block_list(model)
    calls: list[BlockCall] = []
    hidden: list[Tensor] = []
    extra_outputs: list[Any] = []

    def record(index: int, run: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            if not args:
                args = (kwargs.pop("hidden_states"),)
            calls.append(BlockCall(tuple(args[1:]), dict(kwargs)))
            if index == 0:
                hidden.append(args[0])
                output = run(*args, **kwargs)
                extra_outputs.append(output[1:] if isinstance(output, tuple) else None)
                return output
            return args[0] if extra_outputs[0] is None else (args[0], *extra_outputs[0])

        return forward

    with _replaced_forwards(blocks, record), torch.no_grad():
        model.base_model(input_ids=tokens, use_cache=False)
    if len(calls) != len(blocks):
        raise UnsupportedModelError(
            f"{type(model).__name__} runs {len(calls)} of its {len(blocks)} blocks in a forward pass; "
            "expected each one exactly once. Layers that are skipped or shared cannot be compressed yet."
        )
    return hidden[0], calls


def check_calls_are_independent_of_tokens(model: PreTrainedModel, length: int, device: torch.device) -> None:
    """Raise if blocks are handed tensors that depend on the text, other than hidden states.

    Raises:
        UnsupportedModelError: naming the argument.
    """
    vocabulary = model.get_input_embeddings().num_embeddings
    one = torch.arange(length, device=device)[None] % vocabulary
    other = one.flip(1)
    for ours, theirs in zip(capture_calls(model, one)[1], capture_calls(model, other)[1], strict=True):
        for name, value in ours.kwargs.items():
            if isinstance(value, Tensor) and not torch.equal(value, theirs.kwargs[name]):
                raise UnsupportedModelError(
                    f"{type(model).__name__} hands its blocks {name!r}, which depends on the text; "
                    "only hidden states may. Such models cannot be compressed yet."
                )


def find_blocks(model: PreTrainedModel) -> list[Block]:
    """Return the blocks of a model with their groups, found by one short probe run of each block.

    Linears that the probe does not reach are in no group and stay dense.

    Raises:
        UnsupportedModelError: no blocks, or a linear layer that two blocks share.
    """
    path, modules = find_block_list(model)
    vocabulary = model.get_input_embeddings().num_embeddings
    hidden, calls = capture_calls(model, torch.arange(PROBE_TOKENS)[None] % vocabulary)
    blocks: list[Block] = []
    owners: dict[int, str] = {}
    for index, (module, call) in enumerate(zip(modules, calls, strict=True)):
        block_path = f"{path}.{index}"
        if any(isinstance(child, LowRankLinear) for child in module.modules()):
            raise UnsupportedModelError(
                f"{block_path} is already compressed. Start from the original model, or multiply the factors back "
                "with `eckart merge`."
            )
        groups = _find_groups(module, block_path, call, hidden)
        for target in (target for group in groups for target in group.targets):
            owner = owners.setdefault(id(module.get_submodule(target.name)), target.path)
            if owner != target.path:
                raise UnsupportedModelError(
                    f"{owner} and {target.path} are one and the same layer; shared blocks cannot be compressed yet."
                )
        blocks.append(Block(block_path, module, groups))
    return blocks


def _find_groups(module: nn.Module, path: str, call: BlockCall, hidden: Tensor) -> tuple[Group, ...]:
    inputs: dict[str, Tensor] = {}  # kept alive, so that an address belongs to one tensor
    counts: dict[str, int] = {}

    def remember(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
            inputs.setdefault(name, args[0])
            counts[name] = counts.get(name, 0) + 1

        return hook

    with _hooks() as handles, torch.no_grad():
        for name, child in module.named_modules():
            if is_linear(child):
                handles.append(child.register_forward_pre_hook(remember(name)))
        call(module, hidden)
    members: dict[tuple[Any, ...], list[str]] = {}
    for name, tensor in inputs.items():  # in order of execution
        members.setdefault((tensor.data_ptr(), tensor.shape, tensor.stride()), []).append(name)
    return tuple(
        Group(
            tuple(Target(n, f"{path}.{n}", *weight_matrix(module.get_submodule(n)).shape) for n in names),
            runs_once=all(counts[n] == 1 for n in names),
        )
        for names in members.values()
    )


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
    with _hooks() as handles, torch.no_grad():
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
