"""Draws what any_transformer.py measured: a panel for each model and part, quality against bytes.

    python benchmarks/any_transformer_figure.py --rows rows.jsonl --output docs/figures/any-transformer.svg

Writes the picture for a light page, and beside it one for a dark page (``any-transformer-dark.svg``).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import matplotlib
import typer
from matplotlib.figure import Figure
from pictures import DARK, LIGHT

Row = dict[str, Any]

DENSE = "dense"
# Okabe and Ito's colours, told apart by all eyes; lighter ones where the page is dark.
COLOURS = {
    "eckart": ("#0072b2", "#56b4e9"),
    "eckart-fast": ("#009e73", "#2fd6a5"),
    "zs-svd": ("#8250df", "#bc8cff"),
    "saes-svd": ("#c75100", "#f0883e"),
    "aa-svd": ("#a0703c", "#d9a066"),
    "svd-llm": ("#6e7781", "#9198a1"),
}
# A model, its part, the panel's title, and which score it shows.
PANELS = (
    ("vision-language", "language", "Answers right, language tower", "mean"),
    ("vision-language", "vision", "Answers right, vision tower", "mean"),
    ("vision-language", "both", "Answers right, both towers", "mean"),
    ("mixture", "all", "Mixture of experts, perplexity", "perplexity"),
    ("encoder", "all", "MiniLM, rank correlation", "spearman"),
    ("encoder", "all", "MiniLM, cosine to dense", "cosine to dense"),
)


def draw(rows: Iterable[Row], *, dark: bool = False) -> Figure:
    """Return the picture; each line has model, part, score and recipe as ``gid``, with slashes between."""
    rows = list(rows)
    page = DARK if dark else LIGHT
    figure = Figure(figsize=(9.2, 5.6), facecolor="none", layout="constrained")
    lines: dict[str, Any] = {}
    for panel, axes in zip(PANELS, figure.subplots(2, 3).flat, strict=True):
        _draw_panel(axes, panel, rows, page, dark)
        shown, labels = axes.get_legend_handles_labels()
        lines.update(zip(labels, shown, strict=True))
    figure.legend(
        lines.values(), lines, loc="outside upper left", ncols=len(COLOURS), frameon=False, labelcolor=page["ink"]
    )
    figure.supxlabel("bytes of the linear layers that are kept; dotted: the dense model", color=page["muted"])
    return figure


def _draw_panel(axes: Any, panel: tuple[str, str, str, str], rows: list[Row], page: dict[str, str], dark: bool) -> None:
    model, part, title, score = panel
    axes.set_facecolor("none")
    of_model = [row for row in rows if row["model"] == model]
    for recipe, colours in COLOURS.items():
        found = [row for row in of_model if row["part"] == part and row["recipe"].partition("+")[0] == recipe]
        if found:
            points = sorted((row["kept"], row["scores"][score]) for row in found)
            ours = recipe.startswith("eckart")
            (line,) = axes.plot(
                *zip(*points, strict=True),
                color=colours[dark],
                linewidth=2.2 if ours else 1.4,
                linestyle="-" if ours else (0, (4, 2)),
                marker="o" if ours else "s",
                markersize=4.5,
                label=recipe,
            )
            line.set_gid(f"{model}/{part}/{score}/{recipe}")
    for row in of_model:
        if row["recipe"] == DENSE:
            axes.axhline(row["scores"][score], color=page["muted"], linewidth=1, linestyle=":")
    if score == "perplexity":
        axes.set_yscale("log")
    else:  # panels of one score are alike, so that noise does not look like a difference
        low, high = (bound(row["scores"][score] for row in of_model) for bound in (min, max))
        margin = 0.05 * (high - low) or 0.01
        axes.set_ylim(low - margin, high + margin)
    axes.set_title(title, loc="left", color=page["ink"], fontsize=9.5, fontweight="bold")
    axes.grid(color=page["faint"], linewidth=0.7)
    axes.tick_params(which="both", colors=page["muted"], length=0, labelsize=8)
    axes.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    for edge in axes.spines.values():
        edge.set_visible(False)


def main(
    rows: Annotated[Path, typer.Option(help="JSON lines that any_transformer.py wrote.")],
    output: Annotated[Path, typer.Option(help="SVG file; the one for dark pages stands beside it.")],
) -> None:
    """Draw the picture for light and for dark pages."""
    measured = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]
    shown = [row for row in measured if row["on"] == "test" and not row["quick"]]
    with matplotlib.rc_context({"svg.hashsalt": "eckart", "font.size": 10}):
        for dark, path in ((False, output), (True, output.with_stem(output.stem + "-dark"))):
            draw(shown, dark=dark).savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=110)


if __name__ == "__main__":
    typer.run(main)
