"""Figures as plain data: traces and layouts of plotly without colours, which the page adds for its theme.

A trace names its colour by a role: ``series`` (the number of a recipe), ``depth`` (0 for the first block, 1 for the
last) or ``ink`` (that of the text).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

Trace = dict[str, Any]
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "x", "star", "hexagon", "pentagon")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
COLOURS = 8  # of the page


@dataclass(frozen=True)
class Select:
    """A choice that the reader has."""

    label: str
    options: list[str]


@dataclass
class Figure:
    """One drawing, with a variant for each combination of choices.

    Attributes:
        id: in the page.
        alt: what is seen, for those who do not see it.
        selects: the choices.
        variants: by the numbers of the options, with dots between: traces and a layout.
        height: in pixels.
    """

    id: str
    alt: str
    selects: list[Select] = field(default_factory=list)
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)
    height: int = 420

    def add(self, choice: Sequence[int], traces: Iterable[Trace], **layout: Any) -> None:
        """Add what is drawn for a combination of options."""
        self.variants[".".join(map(str, choice))] = {"traces": list(traces), "layout": layout}


def axis(title: str, *, log: bool = False, **more: Any) -> dict[str, Any]:
    """Return an axis; its title names the unit."""
    settings: dict[str, Any] = {"title": {"text": plain(title)}, **more}
    if log:
        settings["type"] = "log"  # the page chooses the ticks by the range
    return settings


def plain(text: str) -> str:
    """Return text that plotly shows as it is: it takes some HTML, and ``%{...}`` in templates, for its own."""
    for mark, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(mark, entity)
    return text.replace("%{", "% {")


def lines(*parts: str | None) -> str:
    """Return a tooltip of several lines; None leaves a line out."""
    return "<br>".join(plain(part) for part in parts if part is not None)


def number(value: float | None, digits: int = 3) -> str:
    """Return a number for people, with so many significant digits."""
    if value is None or not math.isfinite(value):
        return "not known"
    if value and not 1e-4 <= abs(value) < 1e7:
        return f"{value:.{digits - 1}e}"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:,.{places}f}"


def rounded(value: float | None, digits: int = 4) -> float | None:
    """Return a number with so many significant digits; None if it is none that JSON knows."""
    if value is None or not math.isfinite(value):
        return None
    found = float(f"{value:.{digits}g}")
    return found if math.isfinite(found) else value  # the largest number of all may be rounded up


def marker(series: int, size: int = 9) -> dict[str, Any]:
    """Return the marker of a recipe: a shape too, for those who do not tell the colours apart."""
    return {"symbol": SYMBOLS[series % len(SYMBOLS)], "size": size}


def thinned(count: int, most: int) -> list[int]:
    """Return at most so many of the first ``count`` whole numbers, evenly spaced, both ends among them."""
    if count <= most:
        return list(range(count))
    return sorted({round(place * (count - 1) / (most - 1)) for place in range(most)})
