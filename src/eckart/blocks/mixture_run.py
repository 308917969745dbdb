"""Watches a mixture of experts in a run of its block, and runs it again with the same choice of experts.

In two models a router sends tokens elsewhere, so that what an expert is handed in one cannot be compared with what it
is handed in the other. A pair is what an expert is handed of a token by the compressed model, and what it would be
handed of that token if the original model chose alike: the original mixture is run once more, on the original hidden
states, with what was chosen in the compressed one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from eckart.blocks.block import Group, hooks
from eckart.blocks.block_arguments import replaced_forwards
from eckart.blocks.rankings import OtherRankingsError, Rankings


@dataclass
class MixtureRun:
    """What was seen of a mixture in one run of its block.

    Attributes:
        module: the mixture.
        args: that it was handed by position.
        kwargs: by name.
        place: of the hidden states among the tensors that it was handed.
        rankings: what rankings in it gave.
        weights: by the path of each expert, squares of the weights of its outputs, (tokens,); None where nothing is
            known of them.
    """

    module: nn.Module
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    place: int = 0
    rankings: list[Tensor] = field(default_factory=list)
    weights: dict[str, Tensor] | None = None

    @property
    def hidden(self) -> Tensor:
        """The hidden states that it was handed."""
        return self.tensors[self.place]

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors of floats that it was handed, in order."""
        every = (*self.args, *self.kwargs.values())
        return [value for value in every if isinstance(value, Tensor) and value.is_floating_point()]

    def again(self, hidden: Tensor) -> Tensor:
        """Run the mixture on other hidden states with the same choices, and return what it gives.

        Args:
            hidden: in the place of those that it was handed.

        Raises:
            OtherRankingsError: it makes no such choices.
        """
        before = self.hidden
        if hidden.shape != before.shape:
            raise OtherRankingsError
        hidden = hidden.to(before)

        def other(value: Any) -> Any:
            return hidden if value is before else value

        rankings = Rankings(self.rankings)
        with torch.no_grad(), rankings:
            result = self.module(*map(other, self.args), **{name: other(value) for name, value in self.kwargs.items()})
        if len(rankings.found) < len(self.rankings):
            raise OtherRankingsError
        return next(leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor))


@contextmanager
def watched(block: nn.Module, groups: Iterable[Group], *, weigh: bool = True) -> Iterator[dict[str, MixtureRun]]:
    """Give a dictionary that holds, after a run of the block inside, what was seen of each mixture, by its name.

    Args:
        block: as it is or compressed.
        groups: of linears; only those in experts are looked at.
        weigh: whether to find the weights of the outputs of the experts.
    """
    last: dict[str, dict[str, str]] = {}
    for group in groups:
        if group.expert is not None:
            last.setdefault(group.expert.mixture, {})[group.expert.path] = group.expert.last
    runs = {name: MixtureRun(block.get_submodule(name)) for name in last}

    def replace(number: int, forward: Callable[..., Any]) -> Callable[..., Any]:
        name = list(runs)[number]
        experts = {path: block.get_submodule(linear) for path, linear in last[name].items()} if weigh else {}

        def run(*args: Any, **kwargs: Any) -> Any:
            return _watch(runs[name], experts, forward, args, kwargs)

        return run

    with replaced_forwards([run.module for run in runs.values()], replace):
        yield runs


def _watch(
    seen: MixtureRun,
    experts: Mapping[str, nn.Module],
    forward: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> Any:
    """Run a mixture and take note of it.

    How an expert's output is weighed is its gradient in what the mixture gives, whatever computes with the weights.

    Args:
        seen: is filled.
        experts: the last linear of each, by its path.
        forward: of the mixture.
        args: that it is handed.
        kwargs: likewise.
    """
    seen.args, seen.kwargs = args, kwargs
    rankings = Rankings()
    leaves: dict[str, list[Tensor]] = {path: [] for path in experts}

    def hook(path: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
        def record(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> Tensor:
            leaves[path].append(output.detach().requires_grad_())
            return leaves[path][-1].clone()  # which may be written into

        return record

    with ExitStack() as stack:
        handles = stack.enter_context(hooks())
        for path, linear in experts.items():
            handles.append(linear.register_forward_hook(hook(path)))
        stack.enter_context(torch.set_grad_enabled(bool(experts)))
        stack.enter_context(rankings)
        result = forward(*args, **kwargs)
    seen.rankings = rankings.found
    given = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    # What a mixture gives is as large as the hidden states; weights of the router, beside either, are not.
    shapes = [tensor.shape for tensor in given]
    seen.place = next((n for n, tensor in enumerate(seen.tensors) if tensor.shape in shapes), 0)
    if experts:
        shape = seen.hidden.shape
        seen.weights = _weights(next((tensor for tensor in given if tensor.shape == shape), None), leaves)
    return tree_map(lambda value: value.detach() if isinstance(value, Tensor) else value, result)


def _weights(total: Tensor | None, leaves: Mapping[str, list[Tensor]]) -> dict[str, Tensor] | None:
    """Return the squares of the weights with which outputs of experts, by their paths, are in ``total``, if any are."""
    every = [leaf for found in leaves.values() for leaf in found]
    if total is None or not total.requires_grad or not every:
        return None
    # Of ones the gradient through a norm would be zero.
    signs = 1 - 2 * (torch.arange(total.numel(), device=total.device) % 2).view(total.shape).to(total.dtype)
    known = torch.autograd.grad(total, every, signs, allow_unused=True)
    if all(gradient is None for gradient in known):
        return None
    gradients = iter(known)
    weights: dict[str, Tensor] = {}
    for path, found in leaves.items():
        sizes = [
            leaf.new_zeros(leaf.shape[:-1]).flatten().float()
            if gradient is None
            else gradient.float().square().mean(dim=-1).flatten()
            for leaf, gradient in zip(found, gradients, strict=False)
        ]
        weights[path] = torch.cat(sizes) if sizes else total.new_zeros(0, dtype=torch.float32)
    return weights


@contextmanager
def lending(block: nn.Module, linears: Mapping[str, nn.Module]) -> Iterator[None]:
    """Put linears in their places in a block, by their names, and take them out again."""
    before = {name: block.get_submodule(name) for name in linears}
    try:
        for name, linear in linears.items():
            block.set_submodule(name, linear)
        yield
    finally:
        for name, linear in before.items():
            block.set_submodule(name, linear)
