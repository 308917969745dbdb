"""What of a model's weights is in linear layers that can be factored, and where the rest is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass

from torch import nn

from eckart.blocks.block import Block
from eckart.blocks.discovery import block_lists
from eckart.layers import is_linear

NUMBER = re.compile(r"\b\d+\b")


@dataclass(frozen=True)
class Reach:
    """Bytes by where they are; see :class:`eckart.compression.model_check.ModelCheck`."""

    model_bytes: int
    block_bytes: int
    reached_bytes: int
    stays: dict[str, int]
    unused: list[str]
    towers: list[str]


def reach_of(model: nn.Module, blocks: Sequence[Block]) -> Reach:
    """Return what is reached of a model, its tensors in memory or not."""
    refs = {ref.path for block in blocks for ref in block.linears}
    paths = {block.path for block in blocks}
    total = in_blocks = reached = 0
    stays: dict[str, int] = {}
    for place, leaf, parameter in _parameters(model):
        size = parameter.numel() * parameter.element_size()
        total += size
        inside = _is_inside(place, paths)
        in_blocks += size * inside
        if place in refs and leaf == "weight":
            reached += size
        else:
            # In a block, the module that holds it; outside, the largest part of the model without blocks.
            name = pattern(place) if inside else _part_beside(place, paths)
            stays[name] = stays.get(name, 0) + size
    linears = [
        block.inside(name) for block in blocks for name, module in block.module.named_modules() if is_linear(module)
    ]
    lists = [
        path for path, _ in block_lists(model) if not any(_is_inside(path, {p}) or _is_inside(p, {path}) for p in paths)
    ]
    return Reach(
        total,
        in_blocks,
        reached,
        dict(sorted(stays.items(), key=lambda item: -item[1])),
        sorted({pattern(name) for name in linears if name not in refs}),
        sorted({_part_beside(other, paths) for other in lists}),
    )


def pattern(path: str) -> str:
    """Return a path with a ``*`` for each number."""
    return NUMBER.sub("*", path)


def _parameters(model: nn.Module) -> Iterator[tuple[str, str, nn.Parameter]]:
    """Yield the path of the module that holds each parameter, its name there, and the parameter, each once."""
    for name, parameter in model.named_parameters():
        place, _, leaf = name.rpartition(".")
        yield place, leaf, parameter


def _is_inside(place: str, blocks: Set[str]) -> bool:
    """Return whether a path is one of the blocks, or inside one."""
    parts = place.split(".")
    return "" in blocks or any(".".join(parts[:depth]) in blocks for depth in range(1, len(parts) + 1))


def _part_beside(place: str, blocks: Set[str]) -> str:
    """Return the beginning of a path up to where it leaves the paths of all blocks."""
    parts = place.split(".")
    shared = 0
    for block in blocks:
        common = 0
        for ours, theirs in zip(parts, block.split("."), strict=False):
            if ours != theirs:
                break
            common += 1
        shared = max(shared, common)
    return pattern(".".join(parts[: shared + 1]))
