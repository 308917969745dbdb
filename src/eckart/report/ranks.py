"""Where the ranks went: the map of them, and the spectra that they cut."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from eckart.compression.records import LayerRecord
from eckart.report.figure import Figure, Select, Trace, axis, plain, rounded, thinned
from eckart.report.rank_map import RankMap, rank_map
from eckart.report.runs import Run

MOST_MAPS = 200
MOST_SPECTRA_RUNS, MOST_SPECTRA_BLOCKS, MOST_SPECTRA_POINTS = 24, 8, 48  # drawn, so that the page stays small


def rank_maps(runs: Sequence[Run]) -> Figure | None:
    """Draw a map a run, blocks by kinds of layers."""
    shown = [run for run in runs if not run.is_dense and run.ranks][:MOST_MAPS]
    if not shown:
        return None
    figure = Figure(
        "rank-map", "Heat map of the rank of each layer, blocks by kinds.", [Select("Run", [run.name for run in shown])]
    )
    figure.height = 0
    for index, run in enumerate(shown):
        shares = run.report is not None
        grid = rank_map(run.report.layers if run.report else _without_shapes(run.ranks))
        figure.height = max(figure.height, 130 + 18 * len(grid.blocks))
        figure.add(
            (index,),
            [_heat(grid, shares=shares)],
            xaxis=axis("kind of layer", tickangle=-35, type="category", showgrid=False, ticks=""),
            yaxis=axis("block", autorange="reversed", type="category", showgrid=False, ticks=""),
        )
    figure.height = min(max(figure.height, 320), 1100)
    return figure


def _heat(grid: RankMap, *, shares: bool) -> Trace:
    cells = [[None if cell is None else cell for cell in row] for row in grid.rows]
    highest = max((cell.rank or 0 for cell in grid.cells), default=0)
    values = [
        [
            None
            if cell is None
            else rounded(100 * cell.kept)
            if shares
            else (highest if cell.rank is None else cell.rank)
            for cell in row
        ]
        for row in cells
    ]
    labels = [["" if cell is None else cell.label for cell in row] for row in cells]
    small = len(grid.blocks) > 60 or len(grid.kinds) > 16
    of = "" if any(cell.base for cell in grid.cells) else "rank "
    hover = f"block %{{y}}, %{{x}}<br>{of}%{{text}}" + ("<br>%{z:.1f} % of the bytes" if shares else "")
    trace: Trace = {
        "type": "heatmap",
        "x": [plain(label) for label in grid.kind_labels],
        "y": [label or "–" for label in grid.blocks],
        "z": values,
        "text": labels,
        "texttemplate": "" if small else "%{text}",
        "hovertemplate": f"{hover}<extra></extra>",
        "colorscale": "Viridis",
        "xgap": 1,
        "ygap": 1,
        "colorbar": {"title": {"text": "bytes kept (%)" if shares else "rank", "side": "right"}, "thickness": 12},
    }
    if shares:
        trace |= {"zmin": rounded(100 * grid.scale[0]), "zmax": rounded(100 * grid.scale[1])}
    return trace


def _without_shapes(ranks: dict[str, int | None]) -> list[LayerRecord]:
    """Return records of layers of which only the rank is known."""
    return [
        LayerRecord(path=path, out_features=1, in_features=1, rank=rank, bytes=0, error=0)
        for path, rank in ranks.items()
    ]


def spectra(runs: Sequence[Run]) -> Figure | None:
    """Draw, for each run and kind of layer, the singular values of some blocks, and where they were cut."""
    shown = [run for run in runs if run.report is not None and run.report.spectra][:MOST_SPECTRA_RUNS]
    if not shown:
        return None
    kinds: dict[str, None] = {}
    drawn: list[dict[str, list[Trace]]] = []
    for run in shown:
        traces = _of_run(run)
        drawn.append(traces)
        kinds |= dict.fromkeys(traces)
    figure = Figure(
        "spectra",
        "Lines of singular values by component, one a block, each with a mark at the cut.",
        [Select("Run", [run.name for run in shown]), Select("Layer", list(kinds))],
    )
    for index, traces in enumerate(drawn):
        for place, kind in enumerate(kinds):
            figure.add(
                (index, place),
                traces.get(kind, []),
                xaxis=axis("component", rangemode="tozero"),
                yaxis=axis("singular value / largest", log=True, tickformat=".0e"),
            )
    return figure


def _of_run(run: Run) -> dict[str, list[Trace]]:
    """Return the traces of each kind of layer."""
    assert run.report is not None
    spectra_by_path = run.report.spectra
    kinds: dict[str, list[LayerRecord]] = {}
    grid = rank_map(run.report.layers)
    labels = dict(zip(grid.kinds, grid.kind_labels, strict=True))
    for layer in run.report.layers:
        if layer.path in spectra_by_path:
            kinds.setdefault(labels[grid.kind_of[layer.path]], []).append(layer)
    depth = {label: place for place, label in enumerate(dict.fromkeys(grid.blocks))}
    found: dict[str, list[Trace]] = {}
    for kind, layers in kinds.items():
        for place in thinned(len(layers), MOST_SPECTRA_BLOCKS):
            layer = layers[place]
            block = next((part for part in reversed(layer.path.split(".")) if part in depth), "")
            share = depth.get(block, 0) / max(1, len(depth) - 1)
            found.setdefault(kind, []).extend(_spectrum(spectra_by_path[layer.path], layer, share))
    return found


def _spectrum(spectrum: Tensor, layer: LayerRecord, share: float) -> list[Trace]:
    components, values = spectrum.double().tolist()
    largest = max(values, default=0.0)
    if not largest > 0:
        return []
    # Half of the points evenly, half ever denser towards the head, where spectra fall fastest.
    half = MOST_SPECTRA_POINTS // 2
    head = {round(len(values) ** (place / half)) - 1 for place in range(half)}
    places = sorted(head.union(thinned(len(values), half)))
    x = [int(components[place]) for place in places]
    # A value of zero has no place on an axis of powers.
    y = [rounded(values[place] / largest, 3) if values[place] > 0 else None for place in places]
    traces: list[Trace] = [
        {
            "type": "scatter",
            "mode": "lines",
            "x": x,
            "y": y,
            "hovertemplate": f"{plain(layer.path)}<br>component %{{x}}: %{{y:.3g}}<extra></extra>",
            "line": {"width": 1.5},
            "depth": share,
        }
    ]
    cut = next((place for place, component in enumerate(components) if component == layer.rank), None)
    if cut is not None and values[cut] > 0:
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": [layer.rank],
                "y": [rounded(values[cut] / largest, 3)],
                "hovertemplate": f"{plain(layer.path)}<br>cut at rank {layer.rank} of {x[-1]}<extra></extra>",
                "marker": {"symbol": "line-ns-open", "size": 16, "line": {"width": 2.5}},
                "depth": share,
            }
        )
    return traces
