"""The demo's table, a line at a time: a row is shown when its model is done, not when all are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from eckart.cli.console import duration, megabytes
from eckart.cli.demo.run import Row

HEADS = ("linear bytes kept", "perplexity", "weights on disk", "       time")  # room for 10 min 10 s
BETWEEN = "  "


class RowTable:
    """Lines of the same width for rows that are not known yet.

    Args:
        names: of all models that there will be.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.widths = [max(map(len, ("model", *names))), *map(len, HEADS)]

    @property
    def head(self) -> str:
        """The names of the columns, and a rule below them."""
        names = self._line(["model", *HEADS])
        return f"{names}\n{'─' * len(names)}"

    def line(self, row: Row) -> str:
        """Return the line of one model."""
        return self._line(
            [
                row.name,
                f"{row.keep:.1%}",
                f"{row.perplexity.perplexity:.2f}",
                megabytes(row.bytes_on_disk),
                duration(row.seconds),
            ]
        )

    def _line(self, cells: Sequence[str]) -> str:
        name, *numbers = cells
        width, *widths = self.widths
        right = (cell.rjust(wide) for cell, wide in zip(numbers, widths, strict=True))
        return BETWEEN.join([name.ljust(width), *right])
