"""The report page of the demo's runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eckart.checkpoint.files import write_bytes
from eckart.cli.demo.model import MODEL
from eckart.cli.demo.run import HELD_OUT, PROMPT, Row
from eckart.report import build_page, gather
from eckart.report.measured import Evaluation, MeasuredSample, MeasuredText, join

TITLE = f"Eckart demo: {MODEL}"


def write_page(page: Path, folder: Path, rows: Sequence[Row]) -> None:
    """Write the page that shows the models of a demo side by side.

    Args:
        page: the file.
        folder: with the models.
        rows: what was measured of them.

    Raises:
        EckartError: a model cannot be read again, or a package that the page is made with is not installed.
    """
    gathered = gather(folder / row.name for row in rows if row.step is not None)
    for row in rows:
        join(gathered.runs, _evaluation(folder, row))
    write_bytes(page, build_page(gathered, TITLE).encode("utf-8", errors="replace"))


def _evaluation(folder: Path, row: Row) -> Evaluation:
    """Return what was measured, as ``eckart eval --json`` has it."""
    return Evaluation(
        model=MODEL if row.step is None else str(folder / row.name),  # the runs name what they were made of
        texts=[MeasuredText(text=HELD_OUT, **row.perplexity.model_dump())],
        samples=[MeasuredSample(prompt=PROMPT, text=row.continuation)],
    )
