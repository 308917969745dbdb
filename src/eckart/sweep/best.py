"""Picks the best row of a sweep, and says how to make that model."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from eckart.sweep.case import split_label
from eckart.sweep.row import SweepRow


def smallest_within(rows: Iterable[SweepRow], text: str, target: float) -> SweepRow | None:
    """Return the row of fewest bytes whose perplexity on a text is at most ``target``; None if there is none.

    Of equal bytes, that of the lowest perplexity. The dense model does not count.
    """
    found = [row for row in rows if row.recipe is not None and row.texts[text].perplexity <= target]
    return min(found, key=lambda row: (row.bytes, row.texts[text].log_perplexity), default=None)


def best_within(rows: Iterable[SweepRow], text: str, target: int) -> SweepRow | None:
    """Return the row of the lowest perplexity on a text that takes at most ``target`` bytes; None if there is none."""
    found = [row for row in rows if row.recipe is not None and row.bytes <= target]
    return min(found, key=lambda row: (row.texts[text].log_perplexity, row.bytes), default=None)


def command_for(row: SweepRow, source: str, calibration: str) -> str:
    """Return the command that makes the model of a row, ready for a shell.

    Args:
        row: of a compressed model.
        source: the dense model, as the command line names it.
        calibration: text, as it does.
    """
    name, overrides = split_label(row.label)
    words = ["eckart", "compress", source, "-o", "OUTPUT", "--recipe", name, "--keep", f"{row.keep:.12g}"]
    for override in overrides:
        words += ["--set", override]
    record = row.calibration
    if record is not None:
        words += ["--calibration", calibration, "--samples", str(record.samples), "--length", str(record.length)]
        words += ["--seed", str(record.seed)]
    return shlex.join(words)
