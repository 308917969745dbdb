"""Draws quality against bytes from measured rows: our recipes, the best published one, plain rounding.

    python benchmarks/front.py --rows benchmarks/leaderboard.jsonl --output docs/figures/front.svg

Writes the picture for a light page, and beside it one for a dark page (``front-dark.svg``).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from leaderboard import CALIBRATION, LENGTH, PUBLISHED
from matplotlib.figure import Figure
from pictures import DARK, LIGHT, empty_picture, write_both

Row = dict[str, Any]

TEXT = "wikitext2.test.txt"
PROTOCOL: Row = {
    "model": "SmolLM2-135M-Instruct",
    "calibration": list(CALIBRATION),
    "samples": 16,
    "seed": 0,
    "windows": 12,
    "length": LENGTH,
}
FILLED = "† measured while the ranks of published recipes were still topped up to the budget"
BEST_PUBLISHED = "best published, 16 bits"
# Okabe and Ito's colours, told apart by all eyes; lighter ones where the page is dark.
COLOURS = {
    "eckart": ("#0072b2", "#56b4e9"),
    "eckart-fast": ("#009e73", "#2fd6a5"),
    "eckart-q": ("#8250df", "#bc8cff"),
    "auto": ("#cc79a7", "#e5a3c8"),
    BEST_PUBLISHED: ("#c75100", "#f0883e"),
    "eora": ("#c75100", "#f0883e"),
    "svd-llm": ("#6e7781", "#9198a1"),
    "int8": ("#24292f", "#e6edf3"),
    "int4": ("#24292f", "#e6edf3"),
    "gptq": ("#24292f", "#e6edf3"),
}
# What a line is called, the index of the point where that stands, the offset from there in points, and the side.
NAMES = {
    "eckart": ("eckart", 1, (-10, -15), "right"),
    "eckart-fast": ("eckart-fast", 2, (9, -0.5), "left"),
    "eckart-q": ("eckart-q, few bits", 1, (14, 1), "left"),
    "auto": ("auto", 0, (10, -12), "left"),
    BEST_PUBLISHED: (BEST_PUBLISHED, 1, (24, -1), "left"),
    "eora": ("eora†, few bits", 0, (9, 6), "left"),
    "svd-llm": ("svd-llm", 1, (10, 6), "left"),
    "int8": ("int8, 8 bits", 0, (9, 5), "left"),
    "int4": ("int4, 4 bits", 0, (9, 5), "left"),
    "gptq": ("gptq, 4 bits", 0, (9, 1), "left"),
}
TICKS = (0, 0.05, 0.2, 0.5, 1, 2, 3, 4, 5)
SHARES = (0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8)


@dataclass(frozen=True)
class Point:
    """One measured model.

    Attributes:
        kept: bytes of the linear layers, as a share of those in 16 bits.
        excess: log-perplexity less that of the dense model, in nats a token.
        recipe: name without the overrides.
        filled: whether its ranks were topped up to the budget, as published recipes once did.
    """

    kept: float
    excess: float
    recipe: str
    filled: bool


def lines_of(rows: Iterable[Row]) -> dict[str, list[Point]]:
    """Return the points of each line, from the largest size to the smallest."""
    rows = list(rows)
    dense = next(row for row in rows if row["recipe"] == "dense" and row["model"] == PROTOCOL["model"])
    measured = [row for row in rows if PROTOCOL.items() <= row.items() and row["recipe"] != "dense"]
    points = [(row, _point(row, dense)) for row in measured]
    as_named = ("eckart", "eckart-fast", "eckart-q", "auto", "svd-llm", "int8", "int4", "gptq")
    lines = {name: [point for row, point in points if row["recipe"] == name] for name in as_named}
    lines["eora"] = [point for _, point in points if point.recipe == "eora"]
    published = {name.partition("+")[0] for name in PUBLISHED}
    at_size: dict[float, Point] = {}
    for row, point in points:
        if point.recipe in published and "structure=pivoted" not in row["recipe"]:
            best = at_size.get(row["keep"])
            at_size[row["keep"]] = point if best is None or point.excess < best.excess else best
    lines[BEST_PUBLISHED] = list(at_size.values())
    for name in ("int4", "gptq"):  # these come in one size; what they are made to be below it is another recipe
        lines[name] = [point for point in lines[name] if point.kept > 0.28][:1]
    return {name: sorted(line, key=lambda point: -point.kept) for name, line in lines.items() if line}


def _point(row: Row, dense: Row) -> Point:
    excess = row["log_perplexity"][TEXT] - dense["log_perplexity"][TEXT]
    return Point(row["kept"], excess, row["recipe"].partition("+")[0], "allocation.fill_budget=true" in row["recipe"])


def _is_ours(name: str) -> bool:
    return name.startswith(("eckart", "auto"))


def draw(lines: Mapping[str, Sequence[Point]], *, dark: bool = False) -> Figure:
    """Return the picture; each line has its name as ``gid``."""
    page = DARK if dark else LIGHT
    axes = empty_picture(page, "Quality against bytes", "bytes of the linear layers that are kept", TICKS, 5.6)
    axes.set_xlim(0.18, 0.86)
    axes.set_xticks(SHARES, [f"{share:.0%}" for share in SHARES])
    axes.minorticks_off()
    figure = cast(Figure, axes.figure)
    for name, line in lines.items():
        colour = COLOURS[name][dark]
        drawn = axes.plot(
            [point.kept for point in line],
            [point.excess for point in line],
            color=colour,
            linewidth=2.2 if _is_ours(name) else 1.6,
            linestyle="-" if _is_ours(name) else (0, (4, 2)),
            marker="o" if _is_ours(name) else "s",
            markersize=6,
            clip_on=False,
            zorder=3,
        )
        drawn[0].set_gid(name)
        called, number, offset, side = NAMES[name]
        anchor = line[min(number, len(line) - 1)]
        axes.annotate(
            called,
            (anchor.kept, anchor.excess),
            xytext=offset,
            textcoords="offset points",
            ha=side,
            color=colour,
            fontweight="bold" if _is_ours(name) else "normal",
        )
        if name == BEST_PUBLISHED:
            for point in line:
                axes.annotate(
                    point.recipe + ("†" if point.filled else ""),
                    (point.kept, point.excess),
                    xytext=(0, 8),
                    textcoords="offset points",
                    ha="center",
                    fontsize=8,
                    color=colour,
                )
    if any(point.filled for line in lines.values() for point in line):
        figure.supxlabel(FILLED, x=0.01, ha="left", fontsize=8, color=page["muted"])
    return figure


def main(
    rows: Annotated[Path, typer.Option(help="JSON lines that leaderboard.py wrote.")],
    output: Annotated[Path, typer.Option(help="SVG file; the one for dark pages stands beside it.")],
) -> None:
    """Draw the picture for light and for dark pages."""
    lines = lines_of(json.loads(line) for line in rows.read_text().splitlines())
    write_both(lambda dark: draw(lines, dark=dark), output)


if __name__ == "__main__":
    typer.run(main)
