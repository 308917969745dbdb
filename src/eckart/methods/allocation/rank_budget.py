"""What an allocator sees: the statistics of each linear, what each rank of it costs, and how many bytes there are."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from eckart.errors import EckartError
from eckart.methods.layout import Layout
from eckart.methods.sensitivity.layer_statistics import LayerStatistics

Ranks = Mapping[str, int | None]


@dataclass(frozen=True)
class Option:
    """A rank that a linear may get (None: dense), and its stored bytes."""

    rank: int | None
    bytes: int


@dataclass(frozen=True)
class RankBudget:
    """Ranks for all linears within one budget of bytes.

    Attributes:
        linears: in order of execution.
        keep: bytes to keep, as a share of the dense 16-bit bytes, in (0, 1].
        layout: what a rank costs, and a weight that is not factored.
        multiple: ranks are multiples of this; a linear too small for that stays dense.
        floor: least rank of a factored linear, as a share of the largest one that saves bytes.
        fused_groups: whether the linears of a group are all factored or all dense, as serving engines want them.
        option: by which a user sets ``keep``, for messages.
    """

    linears: tuple[LayerStatistics, ...]
    keep: float
    layout: Layout
    multiple: int = 8
    floor: float = 0.0
    fused_groups: bool = False
    option: str = "--keep"

    @cached_property
    def dense_bytes(self) -> int:
        """Bytes of all linears in 16-bit numbers."""
        return sum(linear.dense_bytes for linear in self.linears)

    @cached_property
    def whole_bytes(self) -> int:
        """Bytes of all linears if none is factored."""
        return sum(self.whole_bytes_of(linear) for linear in self.linears)

    @cached_property
    def budget(self) -> int:
        """Bytes that all linears together may take."""
        # The floor must not fall one byte short because 0.6 * 10 is 5.999... in binary.
        return math.floor(self.keep * self.dense_bytes + 1e-6)

    @cached_property
    def options(self) -> dict[str, list[Option]]:
        """The options of each linear by rising bytes, the dense one last, by path."""
        return {linear.path: self._options(linear) for linear in self.linears}

    @cached_property
    def groups(self) -> dict[str, list[str]]:
        """For each path, the paths whose layout must be of the same kind: those of its group, or itself alone."""
        if not self.fused_groups:
            return {linear.path: [linear.path] for linear in self.linears}
        members: dict[int, list[str]] = {}
        for linear in self.linears:
            members.setdefault(linear.group, []).append(linear.path)
        return {linear.path: members[linear.group] for linear in self.linears}

    def check(self) -> None:
        """Raise unless the smallest options fit into the budget.

        Raises:
            EckartError: says what they take.
        """
        least = sum(options[0].bytes for options in self.options.values())
        if least > self.budget:
            needed = math.ceil(1000 * least / self.dense_bytes) / 1000
            raise EckartError(
                f"keep {self.keep:g} allows {self.budget:,} bytes, but the smallest ranks allowed take {least:,} "
                f"({least / self.dense_bytes:.1%}): multiples of {self.multiple}, with a floor of {self.floor:g} of "
                f"the largest useful rank. Use {self.option} {needed:g} or more, or lower allocation.floor or "
                "allocation.multiple."
            )

    def largest_rank(self, linear: LayerStatistics) -> int:
        """Return the largest rank whose factors take fewer bytes than the weight itself; 0 if there is none."""
        return linear.layout(self.layout).largest_rank(*linear.shape, self.whole_bytes_of(linear) - 1) or 0

    def rank_of_share(self, linear: LayerStatistics, share: float) -> int | None:
        """Return the largest rank that takes at most ``share`` of a linear's 16-bit bytes; None if dense does."""
        return linear.layout(self.layout).rank_of_share(*linear.shape, share)

    def cost(self, linear: LayerStatistics, rank: int | None) -> int:
        """Return the bytes of a linear at ``rank``, or of the weight itself if that is less or the rank too high."""
        if rank is None or rank > self.layout.highest_rank(*linear.shape):
            return self.whole_bytes_of(linear)
        return min(self.whole_bytes_of(linear), linear.layout(self.layout).bytes(*linear.shape, rank))

    def whole_bytes_of(self, linear: LayerStatistics) -> int:
        """Return the bytes of one linear if it is not factored."""
        return self.layout.bytes(*linear.shape, None)

    def bytes(self, ranks: Ranks) -> int:
        """Return what all linears take at ``ranks``."""
        return sum(linear.layout(self.layout).bytes(*linear.shape, ranks[linear.path]) for linear in self.linears)

    def losses(self, curve: Callable[[LayerStatistics], Tensor]) -> dict[str, list[float]]:
        """Return the loss at each option of each linear: the sum over the components that it lacks.

        Args:
            curve: gives the loss that each component of a linear carries, (p,).
        """
        found = {}
        for linear in self.linears:
            # Summed from the smallest component up, so that small losses are not lost beside large ones.
            tail = [*curve(linear).flip(0).cumsum(0).flip(0).tolist(), 0.0]
            found[linear.path] = [
                0.0 if o.rank is None else tail[min(o.rank, len(tail) - 1)] for o in self.options[linear.path]
            ]
        return found

    def _options(self, linear: LayerStatistics) -> list[Option]:
        largest = self.largest_rank(linear)
        least = max(1, math.ceil(self.floor * largest))
        first = self.multiple * math.ceil(least / self.multiple)
        layout = linear.layout(self.layout)
        factored = [Option(r, layout.bytes(*linear.shape, r)) for r in range(first, largest + 1, self.multiple)]
        return [*factored, Option(None, self.whole_bytes_of(linear))]
