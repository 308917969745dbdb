"""The layers of a report as a grid: one row a block, one column a kind of layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from eckart.compression.records import LayerRecord

MOST_APART = 4  # layers of a block beside one another that are shown one by one
FEWEST_TENTHS = 3  # of a scale of colours


@dataclass(frozen=True)
class Cell:
    """One layer, or many that stand beside one another, such as the experts of a mixture.

    Attributes:
        rank: of the layer; the lowest of many; None if all are left dense.
        kept: share of its dense bytes that it keeps.
        highest: rank of many.
        base: how the weight beside the factors is stored, or the weight itself, where that was chosen for each layer;
            of many the fewest and the most bits.
    """

    rank: int | None
    kept: float
    highest: int | None = None
    base: str = ""

    @property
    def label(self) -> str:
        """The rank, ``dense``, or the lowest and the highest rank; in front of it the base, if there is one."""
        if self.rank is None:
            return self.base or "dense"
        rank = str(self.rank) if self.highest in (None, self.rank) else f"{self.rank}-{self.highest}"
        return f"{self.base} + {rank}" if self.base else rank


@dataclass(frozen=True)
class RankMap:
    """The grid.

    Attributes:
        blocks: the number of each block, as in the layers' paths; empty for layers outside of numbered blocks.
        kinds: the path of each kind of layer inside its block, such as ``self_attn.q_proj``.
        rows: one a block, with one item a kind; None where the block has no such layer.
        kind_of: the kind of each layer by its path.
    """

    blocks: tuple[str, ...]
    kinds: tuple[str, ...]
    rows: tuple[tuple[Cell | None, ...], ...]
    kind_of: Mapping[str, str]

    @property
    def cells(self) -> list[Cell]:
        """All layers, row by row."""
        return [cell for row in self.rows for cell in row if cell is not None]

    @property
    def kind_labels(self) -> tuple[str, ...]:
        """The shortest tail of each kind's path that no other kind's path ends with."""
        return tuple(_shortest_tail(kind, self.kinds) for kind in self.kinds)

    @property
    def scale(self) -> tuple[float, float]:
        """The range of kept shares for colours: whole tenths around those found, and not so few that noise shows."""
        shares = [cell.kept for cell in self.cells]
        # Rounded first: 0.7 * 10 is 7.000000000000001 in binary, which would open another tenth.
        low = math.floor(round(min(shares) * 10, 9))
        high = math.ceil(round(max(shares) * 10, 9))
        while high - low < FEWEST_TENTHS:
            low, high = max(low - 1, 0), max(high, min(high + 1, 10))
        return low / 10, high / 10


def rank_map(layers: Sequence[LayerRecord]) -> RankMap:
    """Arrange at least one layer as a grid; blocks and kinds keep the order in which they first appear."""
    position = _block_position([layer.path.split(".") for layer in layers])
    grid: dict[str, dict[str, list[LayerRecord]]] = {}
    labels: dict[str, str] = {}
    kinds: dict[str, str] = {}
    for path, members in families(layers).items():
        parts = path.split(".")
        # A path without a number at that position is outside of the blocks: a row of its own, without a number.
        cut = position + 1 if position < len(parts) and parts[position].isdigit() else 0
        block, kind = ".".join(parts[:cut]), ".".join(parts[cut:])
        labels[block] = parts[position] if cut else ""
        kinds |= {layer.path: kind for layer in members}
        grid.setdefault(block, {})[kind] = members
    names = tuple(dict.fromkeys(kinds.values()))
    rows = tuple(tuple(_cell(row[kind]) if kind in row else None for kind in names) for row in grid.values())
    return RankMap(tuple(labels.values()), names, rows, kinds)


def families(layers: Sequence[LayerRecord]) -> dict[str, list[LayerRecord]]:
    """Return layers by their paths, those of one block together that differ in one number only, if they are many.

    The path of several has a ``*`` for that number.
    """
    position = _block_position([layer.path.split(".") for layer in layers]) if layers else 0
    found: dict[str, list[LayerRecord]] = {}
    for layer in layers:
        parts = layer.path.split(".")
        inside = [place for place, part in enumerate(parts) if part.isdigit() and place > position]
        path = layer.path if not inside else ".".join([*parts[: inside[-1]], "*", *parts[inside[-1] + 1 :]])
        found.setdefault(path, []).append(layer)
    return {
        path: members
        for family, together in found.items()
        for path, members in (
            {family: together} if len(together) > MOST_APART else {layer.path: [layer] for layer in together}
        ).items()
    }


def _cell(layers: Sequence[LayerRecord]) -> Cell:
    ranks = [layer.rank for layer in layers if layer.rank is not None]
    kept = sum(layer.bytes for layer in layers) / sum(layer.dense_bytes for layer in layers)
    bases = sorted({layer.base.name for layer in layers if layer.base is not None})
    base = bases[0] if len(bases) == 1 else " to ".join(bases[:1] + bases[-1:])
    return Cell(min(ranks, default=None), kept, max(ranks, default=None) if len(layers) > 1 else None, base)


def _block_position(paths: Sequence[Sequence[str]]) -> int:
    """Return which part of the paths is the number of the block.

    It is where the paths first differ, if that is a number everywhere; a model of one block has it in the part that
    all paths share. Anything else falls back to the first number of any path.
    """
    shared = len(list(takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False))))
    if all(len(path) > shared and path[shared].isdigit() for path in paths):
        return shared
    numbers = [place for place, part in enumerate(paths[0][:shared]) if part.isdigit()]
    if numbers:
        return numbers[-1]
    return min((place for path in paths for place, part in enumerate(path) if part.isdigit()), default=0)


def _shortest_tail(kind: str, kinds: Sequence[str]) -> str:
    parts = kind.split(".")
    for length in range(1, len(parts)):
        tail = parts[-length:]
        if sum(other.split(".")[-length:] == tail for other in kinds) == 1:
            return ".".join(tail)
    return kind
