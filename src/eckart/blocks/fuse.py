"""Fuses the linears of groups to one layer each, in memory or in files, and takes them apart again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import cast

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from eckart.blocks.block import Block, Group
from eckart.blocks.onload import WeightSource
from eckart.layers import FusedLinear, fuse_modules, fused_layers, is_linear, unfuse_modules
from eckart.layers.fused import same_kind


def fusable(blocks: Sequence[Block]) -> list[Group]:
    """Return the groups of more than one linear that can be fused."""
    return [
        group
        for block in blocks
        for group in block.groups
        if len(group.linears) > 1
        and group.runs_once
        and same_kind([block.module.get_submodule(ref.name) for ref in group.linears])
    ]


def fuse(model: PreTrainedModel, groups: Iterable[Group], weights: WeightSource) -> None:
    """Fuse the linears of each group.

    Args:
        model: is changed in place.
        groups: from :func:`fusable`.
        weights: where the model's tensors are; learns what the tensors of a fused layer are made of.
    """
    for group in groups:
        paths = [ref.path for ref in group.linears]
        linears = [model.get_submodule(path) for path in paths]
        joint = fuse_modules(model, paths).joint
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


def _tensors(joint: nn.Module, linears: Sequence[nn.Module]) -> Iterator[tuple[nn.Parameter, list[nn.Parameter], int]]:
    """Yield each parameter of a fused layer, those that it is made of, and the dimension that they are fused along."""
    for name, whole in joint.named_parameters():
        dimension = 1 if isinstance(joint, Conv1D) and name == "weight" else 0
        yield whole, [linear.get_parameter(name) for linear in linears], dimension
