"""Fuses the linears of groups to one layer each, in memory or in files, and takes them apart again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, cast

from torch import nn
from transformers.pytorch_utils import Conv1D

from eckart.blocks.block import Block, Group, LinearRef
from eckart.blocks.onload import WeightSource
from eckart.layers import FusedLinear, fuse_modules, fused_layers, is_linear, unfuse_modules
from eckart.layers.fused import same_kind

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Fusion(NamedTuple):
    """Linears that can be one layer.

    Attributes:
        linears: those of a run beside one another.
        runs: of theirs.
    """

    linears: tuple[LinearRef, ...]
    runs: int = 1


def fusable(blocks: Sequence[Block]) -> list[Fusion]:
    """Return the groups of more than one linear that can be fused."""
    return [
        Fusion(group.linears)
        for block in blocks
        for group in block.groups
        if len(group.linears) > 1 and group.runs_once and same_kind(_modules(block, group.linears))
    ]


def fusable_experts(blocks: Sequence[Block]) -> list[Fusion]:
    """Return the routed groups of each block that are handed rows of one tensor and can be fused, each group a run."""
    found: list[Fusion] = []
    for block in blocks:
        families: dict[tuple[str, int], list[Group]] = {}
        for group in block.groups:
            if group.family is not None:  # targets may take out some linears of an expert
                families.setdefault((group.family, len(group.linears)), []).append(group)
        for groups in families.values():
            groups.sort(key=lambda group: _numbered(group.linears[0].path))
            linears = tuple(ref for group in groups for ref in group.linears)
            modules = _modules(block, linears)
            if len(groups) > 1 and same_kind(modules) and not isinstance(modules[0], Conv1D):
                found.append(Fusion(linears, len(groups)))
    return found


def fuse(model: PreTrainedModel, fusions: Iterable[Fusion], weights: WeightSource) -> None:
    """Fuse linears.

    Args:
        model: is changed in place.
        fusions: from :func:`fusable` or :func:`fusable_experts`.
        weights: where the model's tensors are; learns what the tensors of a fused layer are made of.
    """
    for fusion in fusions:
        paths = [ref.path for ref in fusion.linears]
        linears = [model.get_submodule(path) for path in paths]
        joint = fuse_modules(model, paths, fusion.runs).joint
        for whole, parts, dimension in _tensors(joint, linears):
            weights.fuse(whole, parts, dimension)


def unfuse(model: PreTrainedModel, paths: Iterable[str], weights: WeightSource) -> None:
    """Take the fused layers at ``paths`` apart, if their numbers are still those of linear layers."""
    groups = fused_layers(model)
    for path in paths:
        joint = cast(FusedLinear, model.get_submodule(path)).joint
        if is_linear(joint):
            unfuse_modules(model, groups[path])
            linears = [model.get_submodule(member) for member in groups[path]]
            for whole, parts, dimension in _tensors(joint, linears):
                weights.unfuse(whole, parts, dimension)


def _modules(block: Block, linears: Sequence[LinearRef]) -> list[nn.Module]:
    return [block.module.get_submodule(ref.name) for ref in linears]


def _numbered(path: str) -> list[tuple[int, str]]:
    """Return a key by which numbers in paths are in order."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in path.split(".")]


def _tensors(joint: nn.Module, linears: Sequence[nn.Module]) -> Iterator[tuple[nn.Parameter, list[nn.Parameter], int]]:
    """Yield each parameter of a fused layer, those that it is made of, and the dimension that they are fused along."""
    for name, whole in joint.named_parameters():
        dimension = 1 if isinstance(joint, Conv1D) and name == "weight" else 0
        yield whole, [linear.get_parameter(name) for linear in linears], dimension
