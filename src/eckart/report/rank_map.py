"""The layers of a report as a grid: one row a block, one column a kind of layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from eckart.compression.records import LayerRecord

FEWEST_TENTHS = 3  # of a scale of colours


@dataclass(frozen=True)
class Cell:
    """One layer: its rank (None: left dense) and the share of its dense bytes that it keeps."""

    rank: int | None
    kept: float

    @property
    def label(self) -> str:
        """The rank, or ``dense``."""
        return "dense" if self.rank is None else str(self.rank)


@dataclass(frozen=True)
class RankMap:
    """The grid.

    Attributes:
        blocks: the number of each block, as in the layers' paths; empty for layers outside of numbered blocks.
        kinds: the path of each kind of layer inside its block, such as ``self_attn.q_proj``.
        rows: one a block, with one item a kind; None where the block has no such layer.
    """

    blocks: tuple[str, ...]
    kinds: tuple[str, ...]
    rows: tuple[tuple[Cell | None, ...], ...]

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
    grid: dict[str, dict[str, Cell]] = {}
    labels: dict[str, str] = {}
    kinds: dict[str, None] = {}
    for layer in layers:
        parts = layer.path.split(".")
        # A path without a number at that position is outside of the blocks: a row of its own, without a number.
        cut = position + 1 if position < len(parts) and parts[position].isdigit() else 0
        block, kind = ".".join(parts[:cut]), ".".join(parts[cut:])
        labels[block] = parts[position] if cut else ""
        kinds[kind] = None
        grid.setdefault(block, {})[kind] = Cell(layer.rank, layer.bytes / layer.dense_bytes)
    rows = tuple(tuple(row.get(kind) for kind in kinds) for row in grid.values())
    return RankMap(tuple(labels.values()), tuple(kinds), rows)


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
