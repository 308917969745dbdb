"""Draws quality against the bytes of the whole file: Eckart's ``auto`` beside other packages.

    python benchmarks/file_front.py --ours benchmarks/whole_file.jsonl --theirs benchmarks/rivals.jsonl \
        --output docs/figures/files.svg

Writes the picture for a light page, and beside it one for a dark page (``files-dark.svg``).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple, cast

import typer
from front import PROTOCOL, TEXT, Row
from matplotlib.figure import Figure
from pictures import DARK, LIGHT, empty_picture, write_both

OURS = "eckart auto"
SHOWN = {field: PROTOCOL[field] for field in ("model", "samples", "seed", "windows", "length")}
# By the first word of a row; Okabe and Ito's colours, told apart by all eyes, lighter where the page is dark.
COLOURS = {
    OURS: ("#0072b2", "#56b4e9"),
    "llama.cpp": ("#c75100", "#f0883e"),
    "hqq": ("#6e7781", "#9198a1"),
    "gptq": ("#8250df", "#bc8cff"),
    "auto-round": ("#009e73", "#2fd6a5"),
}
TICKS = (0, 0.01, 0.1, 0.3, 0.6, 1, 2, 3)


class Point(NamedTuple):
    """One file: megabytes, excess log-perplexity in nats a token, and what its row is called."""

    size: float
    excess: float
    name: str


def lines_of(ours: Iterable[Row], theirs: Iterable[Row]) -> dict[str, list[Point]]:
    """Return the files of each package, from the largest to the smallest."""
    found: dict[str, list[Point]] = {}
    for rows, size in ((list(ours), "bytes"), (list(theirs), "file_bytes")):
        shown = [row for row in rows if SHOWN.items() <= row.items()]
        dense = next(row for row in shown if row["recipe"] == "dense")["log_perplexity"][TEXT]
        for row in shown:
            if row["recipe"] == "dense":
                continue
            package = OURS if "share" in row else row["recipe"].split()[0]
            point = Point(row[size] / 1e6, row["log_perplexity"][TEXT] - dense, row["recipe"])
            found.setdefault(package, []).append(point)
    return {package: sorted(points, key=lambda point: -point.size) for package, points in found.items()}


def draw(lines: Mapping[str, Sequence[Point]], *, dark: bool = False) -> Figure:
    """Return the picture; each package has its name as ``gid``."""
    page = DARK if dark else LIGHT
    sizes = "megabytes of the file (269 in 16 bits), embedding included"
    axes = empty_picture(page, "The best model that fits a size", sizes, TICKS, 3)
    axes.set_xlim(40, 142)
    for package, points in lines.items():
        colour = COLOURS[package][dark]
        places = [point.size for point in points], [point.excess for point in points]
        drawn = axes.plot(
            *places,
            color=colour,
            linewidth=2.4 if package == OURS else 0,
            marker="o" if package == OURS else "s",
            markersize=7,
            clip_on=False,
            zorder=4 if package == OURS else 3,
        )
        drawn[0].set_gid(package)
        for point in points if package != OURS else points[:1]:
            axes.annotate(
                OURS if package == OURS else _label(point.name),
                (point.size, point.excess),
                xytext=(9, 4),
                textcoords="offset points",
                color=colour,
                fontsize=10 if package == OURS else 8.5,
                fontweight="bold" if package == OURS else "normal",
            )
    return cast(Figure, axes.figure)


def _label(name: str) -> str:
    """Return a rival's name without what is told below the picture."""
    return name.partition(" embedding")[0].replace(" (llm-compressor)", "")


def main(
    ours: Annotated[Path, typer.Option(help="JSON lines that whole_file.py wrote.")],
    theirs: Annotated[Path, typer.Option(help="JSON lines that rivals.py wrote.")],
    output: Annotated[Path, typer.Option(help="SVG file; the one for dark pages stands beside it.")],
) -> None:
    """Draw the picture for light and for dark pages."""
    lines = lines_of(*([json.loads(line) for line in path.read_text().splitlines()] for path in (ours, theirs)))
    write_both(lambda dark: draw(lines, dark=dark), output)


if __name__ == "__main__":
    typer.run(main)
