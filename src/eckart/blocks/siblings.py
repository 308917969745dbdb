"""Linears beside one another of which a run takes some, such as the experts of a mixture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import nn

from eckart.layers import is_linear, weight_matrix
from eckart.layers.linear_stack import LinearStack

Names = tuple[str, ...]


def with_siblings(module: nn.Module, groups: Sequence[Names]) -> list[tuple[Names, Names, str | None]]:
    """Return the groups of a block in an order in which they can be compressed, and those that a run did not reach.

    A group that was not reached is like one that was, but for its number in a list of modules or in a stack of linear
    layers. The layers of a stack do not depend on one another, so that they come together; lists keep their order.

    Args:
        module: the block.
        groups: names of the linears that are handed the same tensor, in order of execution.

    Returns:
        The names of each group, those of the group that it is like, or its own, and the stage of those in stacks.
    """
    patterns = [pattern_of(module, names) for names in groups]
    last = {pattern: number for number, pattern in enumerate(patterns)}
    reached = {name for names in groups for name in names}
    layers = {id(module.get_submodule(name)) for name in reached}  # one may be there by several names
    found: dict[Names, tuple[Names, Names, str | None]] = {}
    for number, (names, pattern) in enumerate(zip(groups, patterns, strict=True)):
        if names in found:  # it stands beside another one
            continue
        in_stack = all(_is_stack(module, name) for name in names)
        alike = [
            (other, names)
            for other in _alike(module, names)
            if reached.isdisjoint(other) and layers.isdisjoint(id(module.get_submodule(name)) for name in other)
        ]
        beside = [names]
        if in_stack:
            beside = [other for other, theirs in zip(groups, patterns, strict=True) if theirs == pattern]
        elif last[pattern] != number:
            alike = []
        every = [(other, other) for other in beside] + alike
        if in_stack:
            every.sort(key=lambda item: _number(module, item[0][0]))
        for other, like in every:
            found.setdefault(other, (other, like, pattern[0] if in_stack else None))
    return list(found.values())


def routed_groups(module: nn.Module, rows: Mapping[Names, int], tokens: int) -> set[Names]:
    """Return the groups in lists of modules that a run hands some of the tokens, and their siblings others.

    Args:
        module: the block.
        rows: how many vectors a run handed each group, by its names.
        tokens: that there were.
    """
    alike: dict[Names, list[Names]] = {}
    for names in rows:
        alike.setdefault(pattern_of(module, names), []).append(names)
    several = [found for found in alike.values() if len(found) > 1]
    return {
        names
        for found in several
        if len({rows[names] for names in found}) > 1 or any(rows[names] < tokens for names in found)
        for names in found
    }


class ExpertPlace(NamedTuple):
    """Where a linear is in a mixture.

    Attributes:
        expert: path of its expert in the mixture.
        stage: name of the linear in the block, without the number of the expert.
    """

    expert: str
    stage: str


def expert_place(module: nn.Module, name: str, mixture: str) -> ExpertPlace | None:
    """Return where a linear is in a mixture: in the outermost list or stack in it, if there is one.

    Args:
        module: the block.
        name: of the linear in it.
        mixture: name of the module in the block around the list or the stack.
    """
    parts = name.split(".")
    start = len(mixture.split(".")) if mixture else 0
    for place in range(start, len(parts)):
        family = module.get_submodule(".".join(parts[:place]))
        if _is_family(family):
            # Of several stacks, those with one number are of one expert.
            outer = [] if isinstance(family, LinearStack) else parts[start:place]
            return ExpertPlace(".".join((*outer, parts[place])), _renumbered(name, place, "*"))
    return None


def pattern_of(module: nn.Module, names: Names) -> Names:
    """Return names without their number in a list or stack."""
    places = [_place(module, name) for name in names]
    return tuple(
        name if place is None else _renumbered(name, place, "*") for name, place in zip(names, places, strict=True)
    )


def _place(module: nn.Module, name: str) -> int | None:
    """Return which part of a name is a number in a list of modules or a stack; the innermost, if there are several."""
    parts = name.split(".")
    for place in range(len(parts) - 1, -1, -1):
        if _is_family(module.get_submodule(".".join(parts[:place]))):
            return place
    return None


def _is_family(module: nn.Module) -> bool:
    """Return whether the children of a module stand beside one another, and are called by it or by what holds it."""
    if isinstance(module, nn.ModuleDict):  # of modules of one kind, and not of the parts of one
        kinds = {type(child) for child in module.children()}
        return len(module) > 1 and len(kinds) == 1 and not any(map(is_linear, module.children()))
    return isinstance(module, nn.ModuleList | LinearStack)


def _is_stack(module: nn.Module, name: str) -> bool:
    return isinstance(module.get_submodule(name.rpartition(".")[0]), LinearStack)


def _number(module: nn.Module, name: str) -> int:
    place = _place(module, name)
    assert place is not None
    return int(name.split(".")[place])


def _renumbered(name: str, place: int, number: str) -> str:
    parts = name.split(".")
    return ".".join([*parts[:place], number, *parts[place + 1 :]])


def _alike(module: nn.Module, names: Names) -> Iterator[Names]:
    """Yield the names of other linears of the same shapes that differ from ``names`` in one number, alike for all."""
    places = [_place(module, name) for name in names]
    if any(place is None for place in places):
        return
    outer = module.get_submodule(".".join(names[0].split(".")[: places[0]]))
    shapes = [_shape_at(module, name) for name in names]
    for number, _ in outer.named_children():
        others = tuple(_renumbered(name, place or 0, number) for name, place in zip(names, places, strict=True))
        if others != names and [_shape_at(module, other) for other in others] == shapes:
            yield others


def _shape_at(module: nn.Module, name: str) -> torch.Size | None:
    """Return the shape of the weight of a linear; None if there is none of that name."""
    try:
        found = module.get_submodule(name)
    except AttributeError:
        return None
    return weight_matrix(found).shape if is_linear(found) else None
