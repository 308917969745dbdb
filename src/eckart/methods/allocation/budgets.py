"""How many bytes which linears may take: one budget for all, and one for each set of them with a size of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from eckart.methods.layout import Layout
from eckart.methods.sensitivity.layer_statistics import LayerStatistics
from eckart.methods.targets import Size


class HasPath(Protocol):
    """A linear, or what is known of one."""

    @property
    def path(self) -> str:
        """In the model."""
        ...


Linear = TypeVar("Linear", bound=HasPath)


@dataclass(frozen=True)
class Budgets:
    """The sizes of all linears.

    Attributes:
        keep: bytes to keep of all that have no size of their own, as a share of their dense 16-bit bytes, in (0, 1].
        own: the others' sizes, by path; those that have the same one share its bytes.
    """

    keep: float
    own: Mapping[str, Size] = field(default_factory=dict)

    def size(self, path: str) -> Size:
        """Return the size that a linear has its part in."""
        return self.own.get(path) or Size("--keep", self.keep)

    def split(self, linears: Iterable[Linear]) -> list[tuple[Size, list[Linear]]]:
        """Return the sets of linears that share a budget, with its size; their order stays."""
        found: dict[Size, list[Linear]] = {}
        for linear in linears:
            found.setdefault(self.size(linear.path), []).append(linear)
        return list(found.items())

    @property
    def chooses(self) -> bool:
        """Whether any ranks are to be chosen."""
        return self.keep < 1 or any(size.keep is not None and size.keep < 1 for size in self.own.values())

    @property
    def factors(self) -> bool:
        """Whether any linear may be factored."""
        return self.chooses or any(size.rank is not None for size in self.own.values())


def rank_within(linear: LayerStatistics, rank: int, layout: Layout) -> int | None:
    """Return a rank that was asked for; None where the weight itself takes no more bytes."""
    layout = linear.layout(layout)
    if rank > layout.highest_rank(*linear.shape):
        return None
    return rank if layout.bytes(*linear.shape, rank) < layout.bytes(*linear.shape, None) else None
