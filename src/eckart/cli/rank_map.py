"""The map of ranks, drawn in the terminal and as an image."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.color import Color
from rich.color_triplet import ColorTriplet
from rich.style import Style
from rich.text import Text

from eckart.cli.plain import literal
from eckart.compression.result import CompressionResult
from eckart.report.rank_map import RankMap, rank_map

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

# The colormap viridis at every eighth: dark is little, bright is much, and equal steps look equal.
VIRIDIS = ("#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725")
SWATCHES = 24  # characters of the terminal's legend

# Of the image: inches, and points for the font.
CELL_WIDTH, CELL_HEIGHT = 0.7, 0.24
WIDTHS, HEIGHTS = (3.4, 24.0), (1.2, 16.0)  # least and most of all cells together
TITLE_SIZE, FONT_SIZE, SMALLEST_FONT = 10.0, 8.0, 4.0
POINTS = 72  # an inch
CHARACTER = 0.65  # width over font size


def caption(report: CompressionResult) -> str:
    """Return what the map is of."""
    return f"Recipe {report.recipe.name}, {report.keep:.1%} of the linear layers' bytes kept"


def terminal_map(report: CompressionResult, width: int) -> Iterator[Text]:
    """Yield the map for a terminal of ``width`` columns: as many parts below each other as the kinds need."""
    grid = rank_map(report.layers)
    low, high = grid.scale
    labels, blocks = [literal(label) for label in grid.kind_labels], [literal(block) for block in grid.blocks]
    first = max(len("block"), *map(len, blocks)) + 1
    texts = [[cell.label for cell in column if cell] for column in zip(*grid.rows, strict=True)]
    longest = [max(map(len, [label, *column])) for label, column in zip(labels, texts, strict=True)]
    space = 2 if sum(longest) + 2 * len(longest) <= width - first else 1
    widths = [size + space for size in longest]
    yield Text(literal(caption(report)), style="bold")
    for begin, end in pairwise(_breaks(widths, width - first)):
        heads = "".join(f"{label:^{size}}" for label, size in zip(labels[begin:end], widths[begin:end], strict=True))
        yield Text(f"\n{'block':<{first}}{heads}".rstrip(), style="bold", no_wrap=True)
        for block, row in zip(blocks, grid.rows, strict=True):
            line = Text(f"{block:>{first - 1}} ", no_wrap=True)
            for cell, size in zip(row[begin:end], widths[begin:end], strict=True):
                style = Style() if cell is None else _style((cell.kept - low) / (high - low), cell.rank is None)
                line.append(f"{'' if cell is None else cell.label:^{size}}", style)
            yield line
    legend = Text(f"\n{'':<{first}}share of bytes kept: {low:.0%} ", no_wrap=True)
    for step in range(SWATCHES):
        legend.append(" ", _style(step / (SWATCHES - 1)))
    yield legend.append(f" {high:.0%}")


def _breaks(widths: list[int], room: int) -> list[int]:
    """Return where to begin a new part, with both ends, so that each part fits into ``room`` if its columns do."""
    breaks, used = [0], 0
    for place, size in enumerate(widths):
        if used + size > room and place > breaks[-1]:
            breaks.append(place)
            used = 0
        used += size
    return [*breaks, len(widths)]


def _style(share: float, bold: bool = False) -> Style:
    """Return a background for a share of the scale, and the text's colour on it."""
    place = min(max(share, 0.0), 1.0) * (len(VIRIDIS) - 1)
    index = min(int(place), len(VIRIDIS) - 2)
    low, high = (Color.parse(VIRIDIS[index + step]).get_truecolor() for step in (0, 1))
    mixed = ColorTriplet(*(round(a + (b - a) * (place - index)) for a, b in zip(low, high, strict=True)))
    return Style(bold=bold, color=_ink(*mixed.normalized), bgcolor=Color.from_triplet(mixed))


def _ink(*colour: float) -> str:
    """Return black or white, whichever contrasts more with a background, by its relative luminance."""
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour)
    return "#000000" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 else "#ffffff"


def figure(report: CompressionResult) -> Figure:
    """Draw the map with matplotlib, without its global state."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    grid = rank_map(report.layers)
    rows, columns = len(grid.blocks), len(grid.kinds)
    width, height = float(np.clip(columns * CELL_WIDTH, *WIDTHS)), float(np.clip(rows * CELL_HEIGHT, *HEIGHTS))
    # Besides the cells: the blocks' numbers and the colorbar in width, the kinds' names and the title in height.
    drawing = Figure(figsize=(width + 1.7, height + 1.2), dpi=150, layout="constrained")
    axes = drawing.add_subplot()
    shares = np.array([[np.nan if cell is None else cell.kept for cell in row] for row in grid.rows])
    image = axes.imshow(shares, cmap="viridis", clim=grid.scale, aspect="auto", interpolation="nearest")
    title = textwrap.fill(caption(report), int(drawing.get_figwidth() * POINTS / (TITLE_SIZE * CHARACTER)))
    drawing.suptitle(f"Rank of every linear layer\n{title}", fontsize=TITLE_SIZE, parse_math=False)
    # Names go upright where they would run into each other; where even lines of text would, some are left out.
    upright = max(map(len, grid.kind_labels)) * CHARACTER * FONT_SIZE > width / columns * POINTS
    shown = range(0, columns, _step(width / columns) if upright else 1)
    plain: dict[str, Any] = {"fontsize": FONT_SIZE, "parse_math": False}  # a dollar sign in a name is one
    axes.set_xticks(shown, grid.kind_labels[:: shown.step], rotation=90 if upright else 0, **plain)
    shown = range(0, rows, _step(height / rows))
    axes.set_yticks(shown, grid.blocks[:: shown.step], **plain)
    axes.set_ylabel("block", fontsize=FONT_SIZE)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    # A bar as tall as the cells; its width and its distance are shares of those of the cells.
    bar = drawing.colorbar(image, ax=axes, fraction=0.3 / width, pad=0.1 / width, aspect=height / 0.2)
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    bar.set_label("share of bytes kept", fontsize=FONT_SIZE)
    bar.ax.tick_params(labelsize=FONT_SIZE)
    bar.outline.set_visible(False)
    _write_cells(drawing, grid, image.to_rgba(shares), width / columns, height / rows)
    return drawing


def _step(size: float) -> int:
    """Return every how many rows, of that many inches, there is room for a line of text."""
    return math.ceil(1.3 * FONT_SIZE / (size * POINTS))


def _write_cells(drawing: Figure, grid: RankMap, colours: NDArray[Any], width: float, height: float) -> None:
    """Separate the cells, of that many inches, and write the ranks; cells too small for it are marked if dense."""
    axes = drawing.axes[0]
    longest = max(len(cell.label) for cell in grid.cells)
    size = min(FONT_SIZE, 0.7 * height * POINTS, 0.9 * width * POINTS / (longest * CHARACTER))
    places = [(x, y, cell) for y, row in enumerate(grid.rows) for x, cell in enumerate(row) if cell is not None]
    if size < SMALLEST_FONT:
        if dense := [(x, y) for x, y, cell in places if cell.rank is None]:
            dot = 0.5 * min(width, height) * POINTS
            axes.plot(*zip(*dense, strict=True), "o", color="black", markersize=dot, markeredgewidth=0, label="dense")
            drawing.legend(loc="outside lower right", fontsize=FONT_SIZE, frameon=False)
        return
    axes.set_xticks(np.arange(1, len(grid.kinds)) - 0.5, minor=True)
    axes.set_yticks(np.arange(1, len(grid.blocks)) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=0.8)
    for x, y, cell in places:
        text = axes.text(x, y, cell.label, ha="center", va="center", fontsize=size, color=_ink(*colours[y, x, :3]))
        text.set_fontweight("bold" if cell.rank is None else "normal")
