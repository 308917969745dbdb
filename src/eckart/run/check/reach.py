"""What of a model's weights is in linear layers that can be factored, and where the rest is."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from eckart.blocks.block import Block, Why
from eckart.blocks.discovery import block_lists
from eckart.compression.model_check import LeftAlone
from eckart.layers import is_linear
from eckart.methods.targets import in_all_blocks
from eckart.run.check.kinds import kind_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Reach:
    """Bytes by where they are; see :class:`eckart.compression.model_check.ModelCheck`."""

    model_bytes: int
    block_bytes: int
    reached_bytes: int
    ignored_bytes: int
    left: list[LeftAlone]
    unused: list[str]
    towers: list[str]


def reach_of(
    model: PreTrainedModel, blocks: Sequence[Block], ignored: Collection[str] = (), tables: Collection[str] = ()
) -> Reach:
    """Return what is reached of a model, its tensors in memory or not.

    Args:
        model: to look at.
        blocks: of it, with the linears that are compressed.
        ignored: paths of linears that could be and that the user leaves as they are.
        tables: paths of an embedding and a head that are rounded.
    """
    refs = {ref.path for block in blocks for ref in block.linears}
    paths = {block.path for block in blocks}
    kept = {block.inside(name): why for block in blocks for name, why in block.left.items()}
    lists = [
        path for path, _ in block_lists(model) if not any(_is_inside(path, {p}) or _is_inside(p, {path}) for p in paths)
    ]
    total = in_blocks = reached = spared = 0
    left: dict[tuple[str, str, str], int] = {}
    for place, leaf, parameter in _parameters(model):
        size = parameter.numel() * parameter.element_size()
        total += size
        inside = _is_inside(place, paths)
        in_blocks += size * inside
        if place in refs and leaf == "weight":
            reached += size
            continue
        if place in tables and leaf == "weight":
            continue
        # In a block, the module that holds it; outside, the largest part of the model without blocks.
        part = in_all_blocks(place) if inside else _part_beside(place, paths)
        what, why = kind_of(model, place, parameter)
        if place in refs:
            what, why = "bias", "no matrix"
        elif place in kept:
            what, why = "router" if kept[place] is Why.CHOOSES else what, kept[place].value
        elif place in ignored:
            spared += size * (leaf == "weight")
            why = "left by the recipe"
        elif any(place.startswith(f"{other}.") for other in lists):
            why = "not run on these samples"
        elif not inside:
            why = "outside of the blocks"
        left[part, what, why] = left.get((part, what, why), 0) + size
    linears = {
        block.inside(name) for block in blocks for name, module in block.module.named_modules() if is_linear(module)
    }
    not_run = linears - refs - set(ignored) - {place for place, why in kept.items() if why is not Why.NO_GRADIENTS}
    return Reach(
        total,
        in_blocks,
        reached,
        spared,
        [LeftAlone(part=part, what=what, why=why, bytes=size) for (part, what, why), size in _falling(left)],
        sorted(set(map(in_all_blocks, not_run))),
        sorted({_part_beside(other, paths) for other in lists}),
    )


def _falling(sizes: dict[tuple[str, str, str], int]) -> list[tuple[tuple[str, str, str], int]]:
    return sorted(sizes.items(), key=lambda item: -item[1])


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
    return in_all_blocks(".".join(parts[: shared + 1]))
