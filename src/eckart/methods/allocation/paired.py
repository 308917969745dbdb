"""Linears between which a width shrinks, as allocators see them: each pair as one linear, its rank the width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eckart.blocks.pairs import Part
from eckart.methods.layout import Layout
from eckart.methods.sensitivity.layer_statistics import LayerStatistics
from eckart.methods.structure.kept import Width, index_numbers


@dataclass(frozen=True)
class PairStatistics(LayerStatistics):
    """What is known of a pair; its shape is (units, numbers that each takes in all weights).

    Attributes:
        index: 16-bit numbers that the places of one unit take.
    """

    index: int = 0

    def layout(self, layout: Layout) -> Layout:
        """See :meth:`LayerStatistics.layout`."""
        return Layout(Width(index=self.index))


def pairs_of(linears: Sequence[LayerStatistics]) -> dict[str, list[LayerStatistics]]:
    """Return the linears of each pair, by the path of the first of them; none for linears that are in no pair."""
    found: dict[tuple[str, int], list[LayerStatistics]] = {}
    for linear in linears:
        if linear.part is not None:
            found.setdefault((linear.block, linear.part.pair), []).append(linear)
    return {members[0].path: members for members in found.values()}


def as_one(members: Sequence[LayerStatistics]) -> PairStatistics:
    """Return what is known of a pair by what is known of its linears."""
    first, parts = members[0], [part_of(member) for member in members]
    numbers = sum(part.rows * _other(m, part) for m, part in zip(members, parts, strict=True))
    index = sum(
        part.rows * index_numbers(part.rows * part.width) for part in parts if not part.direct
    )  # as `eckart.methods.structure.kept` counts the places of each
    return PairStatistics(
        first.path,
        (parts[0].width, numbers),
        first.group,
        f"{parts[0].kind} of {first.kind}",
        similarity=first.similarity,
        own=first.own,
        block=first.block,
        index=index,
    )


def ranks_of_members(
    widths: Mapping[str, int | None], pairs: Mapping[str, Sequence[LayerStatistics]]
) -> dict[str, int | None]:
    """Return how many outputs or inputs of each linear stay, by path; None where all do.

    Args:
        widths: of the pairs, by the path of the first linear of each.
        pairs: their linears.
    """
    return {
        member.path: None if widths[first] is None else widths[first] * part_of(member).rows  # type: ignore[operator]
        for first, members in pairs.items()
        for member in members
    }


def part_of(linear: LayerStatistics) -> Part:
    """Return what a linear has of its pair."""
    assert linear.part is not None
    return linear.part


def _other(linear: LayerStatistics, part: Part) -> int:
    return linear.shape[1] if part.side == "outputs" else linear.shape[0]
