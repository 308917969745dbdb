"""Joins the linears of groups to one layer each, in memory or in files, and takes them apart again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import cast

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from eckart.blocks.discovery import Block, Group
from eckart.blocks.onload import Weights
from eckart.layers import JointLinear, is_linear, join_modules, joint_groups, separate_modules
from eckart.layers.fused import empty_joint


def joinable(blocks: Sequence[Block]) -> list[Group]:
    """Return the groups of more than one linear that can be joined."""
    found = []
    for block in blocks:
        for group in block.groups:
            with suppress(ValueError):  # linears of different kinds
                if len(group.targets) > 1 and group.runs_once:
                    empty_joint([block.module.get_submodule(target.name) for target in group.targets])
                    found.append(group)
    return found


def join(model: PreTrainedModel, groups: Iterable[Group], weights: Weights) -> None:
    """Join the linears of each group.

    Args:
        model: is changed in place.
        groups: from :func:`joinable`.
        weights: where the model's tensors are; learns what the tensors of a joint layer are made of.
    """
    for group in groups:
        paths = [target.path for target in group.targets]
        linears = [model.get_submodule(path) for path in paths]
        joint = join_modules(model, paths).joint
        for whole, parts, dimension in _tensors(joint, linears):
            weights.join(whole, parts, dimension)


def separate(model: PreTrainedModel, paths: Iterable[str], weights: Weights) -> None:
    """Take the joint layers at ``paths`` apart, if their numbers are still those of linear layers."""
    groups = joint_groups(model)
    for path in paths:
        joint = cast(JointLinear, model.get_submodule(path)).joint
        if is_linear(joint):
            separate_modules(model, groups[path])
            linears = [model.get_submodule(member) for member in groups[path]]
            for whole, parts, dimension in _tensors(joint, linears):
                weights.separate(whole, parts, dimension)


def _tensors(joint: nn.Module, linears: Sequence[nn.Module]) -> Iterator[tuple[nn.Parameter, list[nn.Parameter], int]]:
    """Yield each parameter of a joint layer, those that it is made of, and the dimension that they are joined along."""
    for name, whole in joint.named_parameters():
        dimension = 1 if isinstance(joint, Conv1D) and name == "weight" else 0
        yield whole, [linear.get_parameter(name) for linear in linears], dimension
