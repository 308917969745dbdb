"""Runs a block with other outputs of some of its linears, to see by numbers what is made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from eckart.blocks.block_arguments import BlockArguments
from eckart.layers.linear import input_of

Change = Callable[[Tensor], Tensor]
ROUNDING = 1e-5  # of float32 sums over a few tokens, relative to the largest number


@dataclass(frozen=True)
class Run:
    """A block and what it is run on.

    Attributes:
        block: to run.
        call: how.
        hidden: (batch, length, width).
    """

    block: nn.Module
    call: BlockArguments
    hidden: Tensor


@dataclass(frozen=True)
class Ran:
    """What a linear of the block was handed, and what the block gave."""

    seen: Tensor
    behind: Tensor


def run_with(run: Run, changes: Mapping[str, Change], consumer: str, before: Change | None = None) -> Ran | None:
    """Run a block; None if it cannot be run so, or does not reach the consumer.

    Args:
        run: what is run.
        changes: what becomes of the outputs of linears, by their names.
        consumer: name of the linear whose input is wanted.
        before: what becomes of that input, once it was looked at.
    """
    seen: list[Tensor] = []

    def changed(change: Change) -> Callable[..., Tensor]:
        return lambda module, args, output: change(output)

    def look(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        seen.append(input_of(args, kwargs).clone())
        if before is None:
            return None
        return ((before(args[0]), *args[1:]), kwargs) if args else (args, dict.fromkeys(kwargs, before(seen[-1])))

    with ExitStack() as stack, torch.no_grad():
        for name, change in changes.items():
            stack.enter_context(run.block.get_submodule(name).register_forward_hook(changed(change)))
        hook = run.block.get_submodule(consumer).register_forward_pre_hook(look, with_kwargs=True)
        stack.enter_context(hook)
        try:
            behind = run.call(run.block, run.hidden.clone())  # it may be written to
        except Exception:  # what a block raises that is handed other shapes than it is made for can be anything
            return None
    return Ran(seen[0], behind) if len(seen) == 1 else None


def is_close(ours: Tensor, theirs: Tensor) -> bool:
    """Return whether two tensors are the same but for rounding; never if their shapes differ, or one is not finite."""
    if ours.shape != theirs.shape or not (torch.isfinite(ours).all() and torch.isfinite(theirs).all()):
        return False
    ours, theirs, eps = ours.float(), theirs.float(), torch.finfo(theirs.dtype).eps
    return bool((ours - theirs).abs().max() <= max(4 * eps, ROUNDING) * theirs.abs().max())
