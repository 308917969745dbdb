"""Finds the mixtures in a block, and which expert of one each group of linears is in.

No class and no name is looked at. A mixture is the innermost module around experts that is handed all tokens, and
either ranks something or is handed numbers for each token: the choice of the experts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from eckart.blocks.block import Expert, Group, hooks
from eckart.blocks.block_arguments import BlockArguments
from eckart.blocks.rankings import Rankings
from eckart.blocks.residual import first_tensor
from eckart.blocks.siblings import expert_place

WHOLE = (torch.int64, torch.int32)


def with_experts(module: nn.Module, call: BlockArguments, hidden: Tensor, groups: Sequence[Group]) -> tuple[Group, ...]:
    """Return the groups of a block in an order in which they can be compressed, those of experts with what these are.

    Experts of one mixture do not depend on one another, so that their groups come together.

    Args:
        module: the block, with its tensors.
        call: how the model calls it.
        hidden: a small batch (batch, length, width).
        groups: of the block, in order of execution.
    """
    names = {group: group.linears[0].name for group in groups if group.routed}
    outside = {outer for name in names.values() for outer in _outside(name)}
    if not outside:
        return tuple(groups)
    mixtures = _mixtures(module, call, hidden, outside)
    found: dict[Group, tuple[str, str, str]] = {}  # mixture, expert, stage
    for group, name in names.items():
        mixture = next((outer for outer in _outside(name) if outer in mixtures), None)
        place = None if mixture is None else expert_place(module, name, mixture)
        if mixture is not None and place is not None:
            found[group] = mixture, place.expert, place.stage
    # What differs in its shapes are no experts, but other parts that are handed some of the tokens.
    shapes: dict[tuple[str, str], set[tuple[tuple[int, int], ...]]] = {}
    for group, (mixture, _, stage) in found.items():
        shapes.setdefault((mixture, stage), set()).add(tuple(ref.shape for ref in group.linears))
    found = {group: known for group, known in found.items() if len(shapes[known[0], known[2]]) == 1}
    order: dict[tuple[str, str], list[Group]] = {}
    for group, (mixture, expert, _) in found.items():
        order.setdefault((mixture, expert), []).append(group)
    known: dict[Group, Group] = {}
    for group, (mixture, expert, stage) in found.items():
        mine = order[mixture, expert]
        described = Expert(mixture, expert, inner=group is not mine[0], last=mine[-1].linears[0].name)
        known[group] = replace(group, stage=stage, expert=described)
    return _by_stage([known.get(group, group) for group in groups])


def _outside(name: str) -> list[str]:
    """Return the names of the modules around one, from the innermost to the block."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(len(parts) - 1, -1, -1)]


def _by_stage(groups: Sequence[Group]) -> tuple[Group, ...]:
    stages = [group.stage for group in groups]
    first = {stage: stages.index(stage) for stage in stages if stage is not None}
    places = [number if stage is None else first[stage] for number, stage in enumerate(stages)]
    return tuple(groups[number] for number in sorted(range(len(groups)), key=places.__getitem__))


@dataclass
class _Calls:
    """What is seen of a module in a run: how often it is called, and whether tokens and their routing meet in it."""

    number: int = 0
    handed_all: bool = False
    handed_numbers: bool = False
    ranks: bool = False


def _mixtures(module: nn.Module, call: BlockArguments, hidden: Tensor, names: set[str]) -> set[str]:
    """Return which of the modules of a block can be a mixture."""
    seen = {name: _Calls() for name in names}
    tokens = hidden.shape[:-1].numel()
    rankings = Rankings()

    def before(calls: _Calls) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
            first = first_tensor(args, kwargs)
            calls.number += 1
            calls.handed_all = first is not None and first.shape[:-1].numel() == tokens
            whole = (v for v in (*args, *kwargs.values()) if isinstance(v, Tensor) and v.dtype in WHOLE)
            calls.handed_numbers = any(value.ndim > 1 and value.shape[:-1].numel() == tokens for value in whole)
            starts.append(len(rankings.found))

        return hook

    def after(calls: _Calls) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            calls.ranks = len(rankings.found) > starts.pop()

        return hook

    starts: list[int] = []
    with hooks() as handles, torch.no_grad(), rankings:
        for name, calls in seen.items():
            part = module.get_submodule(name)
            handles.append(part.register_forward_pre_hook(before(calls), with_kwargs=True))
            handles.append(part.register_forward_hook(after(calls)))
        call(module, hidden.clone())  # it may be written to
    return {
        name
        for name, calls in seen.items()
        if calls.number == 1 and calls.handed_all and (calls.ranks or calls.handed_numbers)
    }
