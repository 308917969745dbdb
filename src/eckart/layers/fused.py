"""Several linear layers of one kind of input, run as one: with low rank they share a basis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from eckart.layers.linear import LINEAR_CLASSES, bias_vector, dense_like, empty_conv1d, empty_linear, weight_matrix
from eckart.layers.rows import empty_rows_linear, some_outputs


class FusedLinear(nn.Module):
    """Stands where the first of the layers was, computes the outputs of its run, and returns its own.

    The others are :class:`JointPart`. Those of one run take theirs from it if they are handed the very same tensor.
    There is one run, such as that of q, k and v, or one for each expert of a mixture. A run computes no outputs of
    others.

    Attributes:
        joint: in features -> the sum of the parts' out features; may be replaced by any layer that stands for a linear.
        sizes: out features of each part; those of a run are beside one another, and all runs are alike.
        runs: how many there are.
    """

    joint: nn.Module

    def __init__(self, joint: nn.Module, sizes: Sequence[int], runs: int = 1) -> None:
        super().__init__()
        self.joint = joint
        self.sizes, self.runs = list(sizes), runs
        # The input of the last run, its number and its outputs, until its last part has taken its own.
        self._last: tuple[Tensor, int, Tensor] | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (..., in features) to (..., out features of the first part)."""
        self._last = None
        return self.part(inputs, 0)

    def part(self, inputs: Tensor, number: int) -> Tensor:
        """Return the outputs of one part, (..., its out features)."""
        parts = len(self.sizes) // self.runs
        run, place = divmod(number, parts)
        last = self._last
        if last is not None and last[0] is inputs and last[1] == run:
            outputs = last[2]
        else:
            outputs = some_outputs(self.joint, inputs, None if self.runs == 1 else self.rows(run))
        self._last = None if place == parts - 1 else (inputs, run, outputs)
        start = sum(self.sizes[:place])
        return outputs[..., start : start + self.sizes[number]]

    def forget(self) -> None:
        """Forget the outputs of the last run: the joint layer was changed."""
        self._last = None

    def rows(self, run: int) -> slice:
        """Return which of the joint layer's outputs a run computes."""
        size = sum(self.sizes) // self.runs
        return slice(run * size, (run + 1) * size)

    @property
    def weight(self) -> Tensor:
        """The first part's weight, for code that asks a layer for its dtype or device; not to be written to."""
        return cast(Tensor, self.joint.weight)[: self.sizes[0]]

    @property
    def bias(self) -> Tensor | None:
        """The first part's bias, or None; not to be written to."""
        bias = bias_vector(self.joint)
        return None if bias is None else bias[: self.sizes[0]]

    def __getstate__(self) -> dict[str, Any]:
        """Return what is copied: not the outputs of a run."""
        return {**self.__dict__, "_last": None}


class JointPart(nn.Module):
    """One of the layers of a :class:`FusedLinear` but the first; it holds no numbers of its own."""

    def __init__(self, leader: FusedLinear, number: int) -> None:
        super().__init__()
        self._leader = (leader,)  # in a tuple, so that it does not become a child too
        self.number = number

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (..., in features) to (..., out features)."""
        return self.leader.part(inputs, self.number)

    @property
    def leader(self) -> FusedLinear:
        """The layer that computes its outputs."""
        return self._leader[0]

    @property
    def weight(self) -> Tensor:
        """As :attr:`FusedLinear.weight`, of this part."""
        leader = self.leader
        return torch.split(cast(Tensor, leader.joint.weight), leader.sizes)[self.number]

    @property
    def bias(self) -> Tensor | None:
        """As :attr:`FusedLinear.bias`, of this part."""
        leader = self.leader
        bias = bias_vector(leader.joint)
        return None if bias is None else torch.split(bias, leader.sizes)[self.number]


def runs_of(model: nn.Module, path: str) -> int:
    """Return in how many runs the outputs of a linear are computed: more than one for some fused layers' joint one."""
    outer, _, leaf = path.rpartition(".")
    parent = model.get_submodule(outer)
    return parent.runs if leaf == "joint" and isinstance(parent, FusedLinear) else 1


def same_kind(linears: Sequence[nn.Module]) -> bool:
    """Return whether layers can be fused to one that can be taken apart again.

    They are of one class, device and dtype, of no subclass that could not be given back, and all have a bias or none.
    """
    kinds = kinds_of(linears)
    return len(kinds) == 1 and next(iter(kinds))[0] in LINEAR_CLASSES


def kinds_of(linears: Sequence[nn.Module]) -> set[tuple[type[nn.Module], bool, torch.dtype, torch.device]]:
    """Return the class, whether there is a bias, the dtype and the device of each layer, those that differ."""
    return {
        (type(linear), bias_vector(linear) is not None, weight.dtype, weight.device)
        for linear, weight in zip(linears, map(weight_matrix, linears), strict=True)
    }


def empty_fused(linears: Sequence[nn.Module], runs: int = 1) -> nn.Module:
    """Return a linear layer with the outputs of all of ``linears``, of their class, its numbers not yet set.

    Args:
        linears: to be fused.
        runs: of theirs; if there are several, the layer can be asked for some of its outputs.

    Raises:
        ValueError: they are not of the :func:`same_kind`, or those of different runs are not alike.
    """
    if not same_kind(linears):
        raise ValueError(f"layers of different kinds cannot be fused: {kinds_of(linears)}")
    weights, first = [weight_matrix(linear) for linear in linears], linears[0]
    outputs, (_, inputs) = sum(len(weight) for weight in weights), weights[0].shape
    dtype, device = weights[0].dtype, weights[0].device
    if runs != 1:
        sizes, parts = [len(weight) for weight in weights], len(weights) // max(runs, 1)
        if runs < 1 or sizes != runs * sizes[:parts] or isinstance(first, Conv1D):
            raise ValueError(f"layers of {sizes} outputs, {type(first).__name__}, cannot be fused in {runs} runs")
        return empty_rows_linear(inputs, outputs, bias=bias_vector(first) is not None, device=device, dtype=dtype)
    if isinstance(first, Conv1D):
        layer: nn.Module = empty_conv1d(outputs, inputs, device=device, dtype=dtype)
        return layer
    return empty_linear(inputs, outputs, bias=bias_vector(first) is not None, device=device, dtype=dtype)


def fuse_modules(model: nn.Module, paths: Sequence[str], runs: int = 1) -> FusedLinear:
    """Put a fused layer, its numbers not yet set, and its parts in the places of linear layers of ``model``.

    Args:
        model: is changed in place.
        paths: of the linears, those of a run beside one another.
        runs: of theirs.

    Raises:
        ValueError: see :func:`empty_fused`.
    """
    linears = [model.get_submodule(path) for path in paths]
    leader = FusedLinear(empty_fused(linears, runs), [weight_matrix(linear).shape[0] for linear in linears], runs)
    model.set_submodule(paths[0], leader)
    for number, path in enumerate(paths[1:], start=1):
        model.set_submodule(path, JointPart(leader, number))
    return leader


def fused_layers(model: nn.Module) -> dict[str, list[str]]:
    """Return the paths of the layers of each group that is fused, the first one first, by the first one's path."""
    groups: dict[int, list[str]] = {}
    for path, module in model.named_modules():
        if isinstance(module, FusedLinear):
            groups.setdefault(id(module), [""] * len(module.sizes))[0] = path
        elif isinstance(module, JointPart):
            leader = module.leader
            groups.setdefault(id(leader), [""] * len(leader.sizes))[module.number] = path
    return {paths[0]: paths for paths in groups.values()}


def unfuse_modules(model: nn.Module, paths: Sequence[str]) -> None:
    """Put the layers that were fused, with copies of their numbers, back in their places.

    Args:
        model: is changed in place.
        paths: of one group of :func:`fused_layers`; its fused layer must be linear.
    """
    leader = cast(FusedLinear, model.get_submodule(paths[0]))
    weights, bias = torch.split(weight_matrix(leader.joint).detach(), leader.sizes), bias_vector(leader.joint)
    biases = [None] * len(paths) if bias is None else torch.split(bias.detach(), leader.sizes)
    for path, part, part_bias in zip(paths, weights, biases, strict=True):
        model.set_submodule(path, dense_like(type(leader.joint), part, part_bias))
