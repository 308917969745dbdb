"""What of a model's weights is in linear layers that can be factored, and where the rest is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from eckart.blocks.discovery import Block, block_lists, find_block_list
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
    path, modules = find_block_list(model)
    inside = f"{path}."
    total = in_blocks = reached = 0
    stays: dict[str, int] = {}
    for place, leaf, parameter in _parameters(model):
        size = parameter.numel() * parameter.element_size()
        total += size
        in_blocks += size * place.startswith(inside)
        if place in refs and leaf == "weight":
            reached += size
        else:
            # In a block, the module that holds it; outside, the largest part of the model without blocks.
            name = pattern(place) if place.startswith(inside) else _part_beside(place, path)
            stays[name] = stays.get(name, 0) + size
    linears = [f"{inside}{name}" for name, module in modules.named_modules() if is_linear(module)]
    lists = [other for other, _ in block_lists(model) if other != path]
    return Reach(
        total,
        in_blocks,
        reached,
        dict(sorted(stays.items(), key=lambda item: -item[1])),
        sorted({pattern(name) for name in linears if name not in refs}),
        sorted({_part_beside(other, path) for other in lists}),
    )


def pattern(path: str) -> str:
    """Return a path with a ``*`` for each number."""
    return NUMBER.sub("*", path)


def _parameters(model: nn.Module) -> Iterator[tuple[str, str, nn.Parameter]]:
    """Yield the path of the module that holds each parameter, its name there, and the parameter, each once."""
    for name, parameter in model.named_parameters():
        place, _, leaf = name.rpartition(".")
        yield place, leaf, parameter


def _part_beside(place: str, blocks: str) -> str:
    """Return the beginning of a path up to where it leaves the path of the blocks."""
    parts, other = place.split("."), blocks.split(".")
    common = 0
    while common < min(len(parts), len(other)) and parts[common] == other[common]:
        common += 1
    return pattern(".".join(parts[: common + 1]))
