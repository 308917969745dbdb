"""Finds the blocks of a model and the groups of linears in them, by structure and one probe run.

No architecture is named.

A block is an item of the longest list of modules that holds linear layers. A group is the linears of a block that
are handed the same tensor, in order of execution.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from eckart.calls import BlockCall, capture_calls
from eckart.errors import UnsupportedModelError
from eckart.hidden_units import HiddenUnits, find_hidden_units
from eckart.layers import bias_vector, is_linear, is_replaced, weight_matrix
from eckart.placement import ResidentWeights, Weights
from eckart.residual import check_residuals, residual_places

PROBE_TOKENS = 16
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Target:
    """A linear layer to be factored.

    Attributes:
        name: inside its block, such as ``self_attn.q_proj``.
        path: inside the model, such as ``model.layers.3.self_attn.q_proj``.
        out_features: m.
        in_features: n.
        has_bias: whether it has one.
        residual: the place of the residual stream that its output is added to (see :mod:`eckart.residual`); None if
            there is none, or if nobody asked.
    """

    name: str
    path: str
    out_features: int
    in_features: int
    has_bias: bool = False
    residual: str | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(out features, in features)."""
        return self.out_features, self.in_features

    @property
    def size(self) -> int:
        """Numbers in the dense weight."""
        return self.out_features * self.in_features


@dataclass(frozen=True)
class Group:
    """Linears that share an input; ``targets[0]`` is run first. ``runs_once``: a forward pass calls it exactly once."""

    targets: tuple[Target, ...]
    runs_once: bool


@dataclass(frozen=True)
class Block:
    """One block of a model: its path, its module and its groups in order of execution.

    ``units``: between linears, that may be in any order (see :mod:`eckart.hidden_units`); empty if nobody asked.
    """

    path: str
    module: nn.Module
    groups: tuple[Group, ...]
    units: tuple[HiddenUnits, ...] = ()

    @property
    def targets(self) -> list[Target]:
        """The linears of all groups, in order of execution."""
        return [target for group in self.groups for target in group.targets]


def find_block_list(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Return the path and the list of the model's blocks: the longest list of modules that hold linears.

    Layers that stand for linear ones count like them.

    Lists inside another such list (the experts of a block) do not count; of two equally long, the one with more
    parameters wins.

    Raises:
        UnsupportedModelError: there is none.
    """
    found: list[tuple[str, nn.ModuleList]] = []
    for path, module in model.named_modules():
        inside = any(path.startswith(f"{outer}.") for outer, _ in found)
        holds_linears = any(is_linear(child) or is_replaced(child) for child in module.modules())
        if isinstance(module, nn.ModuleList) and not inside and holds_linears:
            found.append((path, module))
    if not found:
        kinds = sorted({type(module).__name__ for module in model.modules()})
        raise UnsupportedModelError(
            f"{type(model).__name__} has no list of blocks with linear layers. "
            f"Expected a decoder built of nn.Linear layers; its modules are: {', '.join(kinds)}."
        )
    return max(found, key=lambda item: (len(item[1]), sum(p.numel() for p in item[1].parameters())))


def find_blocks(
    model: PreTrainedModel, weights: Weights | None = None, *, residuals: bool = False, units: bool = False
) -> list[Block]:
    """Return the blocks of a model with their groups, found by one short probe run of each block on the CPU.

    Linears that the probe does not reach are in no group and stay dense.

    Args:
        model: to look into.
        weights: where its tensors are; in memory by default.
        residuals: whether to find the residual streams that outputs of linears are added to, too.
        units: whether to find the hidden units between linears, too.

    Raises:
        UnsupportedModelError: no blocks, a linear layer that two blocks share, or no residual streams.
    """
    path, modules = find_block_list(model)
    vocabulary = model.get_input_embeddings().num_embeddings
    weights = weights or ResidentWeights()
    with weights.lend(model, CPU, skip=(*modules[1:], model.get_output_embeddings())):
        hidden, calls = capture_calls(model, modules, torch.arange(PROBE_TOKENS)[None] % vocabulary)
    blocks: list[Block] = []
    owners: dict[int, str] = {}
    for index, (module, call) in enumerate(zip(modules, calls, strict=True)):
        block_path = f"{path}.{index}"
        if any(map(is_replaced, module.modules())):
            raise UnsupportedModelError(
                f"{block_path} is already compressed. Start from the original model, or multiply the factors back "
                "with `eckart merge`."
            )
        with weights.lend(module, CPU):
            places = residual_places(module, call, hidden) if residuals else {}
            groups = _find_groups(module, block_path, call, hidden, places)
            names = [[target.name for target in group.targets] for group in groups if group.runs_once]
            found = find_hidden_units(module, call, hidden, names) if units else ()
        for target in (target for group in groups for target in group.targets):
            owner = owners.setdefault(id(module.get_submodule(target.name)), target.path)
            if owner != target.path:
                raise UnsupportedModelError(
                    f"{owner} and {target.path} are one and the same layer; shared blocks cannot be compressed yet."
                )
        blocks.append(Block(block_path, module, groups, found))
    if residuals:
        check_residuals((target.residual for block in blocks for target in block.targets), model)
    return blocks


def _find_groups(
    module: nn.Module, path: str, call: BlockCall, hidden: Tensor, places: Mapping[str, str]
) -> tuple[Group, ...]:
    inputs: dict[str, Tensor] = {}  # kept alive, so that an address belongs to one tensor
    counts: dict[str, int] = {}

    def remember(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
            inputs.setdefault(name, args[0])
            counts[name] = counts.get(name, 0) + 1

        return hook

    with hooks() as handles, torch.no_grad():
        for name, child in module.named_modules():
            if is_linear(child):
                handles.append(child.register_forward_pre_hook(remember(name)))
        call(module, hidden)
    members: dict[tuple[Any, ...], list[str]] = {}
    for name, tensor in inputs.items():  # in order of execution
        members.setdefault((tensor.data_ptr(), tensor.shape, tensor.stride()), []).append(name)

    def target(name: str) -> Target:
        linear = module.get_submodule(name)
        out_features, in_features = weight_matrix(linear).shape
        has_bias = bias_vector(linear) is not None
        return Target(name, f"{path}.{name}", out_features, in_features, has_bias, places.get(name))

    return tuple(
        Group(tuple(map(target, names)), runs_once=all(counts[n] == 1 for n in names)) for names in members.values()
    )


@contextmanager
def hooks() -> Iterator[list[Any]]:
    """Give a list for the handles of hooks, and remove them all at the end."""
    handles: list[Any] = []
    try:
        yield handles
    finally:
        for handle in handles:
            handle.remove()
