"""What pictures of quality against bytes share: the page's colours, the scale, a file for light and dark pages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

LIGHT = {"ink": "#24292f", "faint": "#d8dee4", "muted": "#57606a"}
DARK = {"ink": "#e6edf3", "faint": "#30363d", "muted": "#9198a1"}
EXCESS = "excess log-perplexity, nats a token (root scale)"
PROTOCOL = "SmolLM2-135M-Instruct on WikiText-2 test (12 × 1024 tokens), calibrated on 16 × 1024; dense has 0"


def empty_picture(page: dict[str, str], title: str, sizes: str, ticks: Sequence[float], highest: float) -> Any:
    """Return the axes of a new figure.

    A root scale shows zero, and small losses apart from one another.

    Args:
        page: its colours.
        title: in bold.
        sizes: what is on the horizontal axis.
        ticks: of the excess.
        highest: excess that is shown.
    """
    figure = Figure(figsize=(8.4, 5.0), facecolor="none", layout="constrained")
    axes: Any = figure.add_subplot(facecolor="none")
    axes.set_yscale("function", functions=(lambda value: abs(value) ** 0.5, lambda value: value**2))
    axes.set_ylim(0, highest)
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.grid(color=page["faint"], linewidth=0.7)
    axes.tick_params(colors=page["muted"], length=0)
    for edge in axes.spines.values():
        edge.set_visible(False)
    axes.set_xlabel(sizes, color=page["muted"])
    axes.set_ylabel(EXCESS, color=page["muted"])
    axes.set_title(f"{title}: lower and further left is better", loc="left", color=page["ink"], weight="bold", pad=24)
    axes.text(0, 1.025, PROTOCOL, transform=axes.transAxes, color=page["muted"], fontsize=9)
    return axes


def write_both(draw: Callable[[bool], Figure], output: Path) -> None:
    """Write the picture for a light page, and beside it one for a dark page (``-dark`` in its name)."""
    with matplotlib.rc_context({"svg.hashsalt": "eckart", "font.size": 10}):
        for dark, path in ((False, output), (True, output.with_stem(output.stem + "-dark"))):
            draw(dark).savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=110)
