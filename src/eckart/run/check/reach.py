"""What of a model's weights is in linear layers that can be factored, and where the rest is."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from eckart.blocks.discovery import Block, block_lists, find_block_list
from eckart.compression.model_check import LeftAlone
from eckart.layers import is_linear
from eckart.methods.targets import in_all_blocks
from eckart.run.check.kinds import kind_of


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


def reach_of(model: PreTrainedModel, blocks: Sequence[Block], ignored: Collection[str] = ()) -> Reach:
    """Return what is reached of a model, its tensors in memory or not.

    Args:
        model: to look at.
        blocks: of it, with the linears that are compressed.
        ignored: paths of linears that could be and that the user leaves as they are.
    """
    refs = {ref.path for block in blocks for ref in block.linears}
    path, modules = find_block_list(model)
    inside = f"{path}."
    lists = [other for other, _ in block_lists(model) if other != path]
    total = in_blocks = reached = spared = 0
    left: dict[tuple[str, str, str], int] = {}
    for place, leaf, parameter in _parameters(model):
        size = parameter.numel() * parameter.element_size()
        total += size
        in_blocks += size * place.startswith(inside)
        if place in refs and leaf == "weight":
            reached += size
            continue
        # In a block, the module that holds it; outside, the largest part of the model without blocks.
        part = in_all_blocks(place) if place.startswith(inside) else _part_beside(place, path)
        what, why = kind_of(model, place, parameter)
        if place in refs:
            what, why = "bias", "no matrix"
        elif place in ignored:
            spared += size * (leaf == "weight")
            why = "left by the recipe"
        elif any(place.startswith(f"{other}.") for other in lists):
            why = "in another list of blocks"
        elif not place.startswith(inside):
            why = "outside of the blocks"
        left[part, what, why] = left.get((part, what, why), 0) + size
    linears = [f"{inside}{name}" for name, module in modules.named_modules() if is_linear(module)]
    return Reach(
        total,
        in_blocks,
        reached,
        spared,
        [LeftAlone(part=part, what=what, why=why, bytes=size) for (part, what, why), size in _falling(left)],
        sorted({in_all_blocks(name) for name in linears if name not in refs and name not in ignored}),
        sorted({_part_beside(other, path) for other in lists}),
    )


def _falling(sizes: dict[tuple[str, str, str], int]) -> list[tuple[tuple[str, str, str], int]]:
    return sorted(sizes.items(), key=lambda item: -item[1])


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
    return in_all_blocks(".".join(parts[: common + 1]))
