"""What runs took: time by what it was spent on, and memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eckart.report.figure import Figure, axis, plain, rounded
from eckart.report.runs import Run

PARTS = (
    "allocation",
    "statistics",
    "preparation",
    "factorisation",
    "refinement",
    "distillation",
    "files",
    "records",
)
UNTOLD = 0.02  # of the time of a run, from which on what is left over is shown
SHORTEST = 1e-3  # seconds
ROW, AROUND = 26, 150  # pixels


def times(runs: Sequence[Run]) -> Figure | None:
    """Draw a bar a run, its parts beside each other."""
    known = [run for run in runs if run.seconds is not None and not run.is_dense]
    if not known:
        return None
    parts: dict[str, list[float | None]] = {part: [] for part in (*PARTS, "shared with other runs", "not told apart")}
    for run in known:
        timings = run.report.costs.timings if run.report else None
        for part in PARTS:
            parts[part].append(getattr(timings, part) if timings else None)
        parts["shared with other runs"].append(run.shared_seconds or None)
        split = sum(getattr(timings, part) for part in PARTS) if timings else 0.0
        rest = (run.seconds or 0.0) - split
        parts["not told apart"].append(rest if rest > UNTOLD * (run.seconds or 0.0) else None)
    names = [plain(run.name) for run in known]
    traces = [
        {
            "type": "bar",
            "orientation": "h",
            "name": part,
            "y": names,
            "x": [rounded(value) for value in values],
            "hovertemplate": f"%{{y}}<br>{part}: %{{x:.3g}} s<extra></extra>",
            "series": number,
            "always": True,
        }
        for number, (part, values) in enumerate(parts.items())
        if any(value is not None and value > SHORTEST for value in values)
    ]
    figure = Figure("times", "Bars of the time that each run took, by what it was spent on.")
    return _with_bars(figure, traces, len(known), "seconds", "stack")


def memory(runs: Sequence[Run]) -> Figure | None:
    """Draw the largest memory of each run, and what was expected."""
    known = [run for run in runs if run.report is not None and run.report.costs.memory is not None]
    if not known:
        return None
    names = [plain(run.name) for run in known]
    memories = [
        run.report.costs.memory for run in known if run.report is not None and run.report.costs.memory is not None
    ]
    kinds: list[tuple[str, list[int | None], str | None]] = [
        ("host, expected", [memory.expected_host for memory in memories], "line-ns-open"),
        ("host", [memory.host for memory in memories], None),
        ("accelerator, expected", [memory.expected_device for memory in memories], "line-ns-open"),
        ("accelerator", [memory.device for memory in memories], None),
    ]
    traces = []
    for number, (label, values, symbol) in enumerate(kinds):
        if any(values):
            trace = {
                "y": names,
                "x": [None if value is None else rounded(value / 1e9) for value in values],
                "name": label,
                "hovertemplate": f"%{{y}}<br>{label}: %{{x:.3g}} GB<extra></extra>",
                "series": number // 2,
                "always": True,
            }
            if symbol is None:
                trace |= {"type": "bar", "orientation": "h"}
            else:
                tick = {"symbol": symbol, "size": 14, "line": {"width": 2.5}}
                trace |= {"type": "scatter", "mode": "markers", "ink": True, "marker": tick}
            traces.append(trace)
    figure = Figure("memory", "Bars of the largest memory of each run, with marks at what was expected.")
    return _with_bars(figure, traces, len(known), "largest memory of the process (GB)", "group")


def _with_bars(figure: Figure, traces: Sequence[dict[str, Any]], rows: int, title: str, mode: str) -> Figure:
    figure.height = AROUND + ROW * rows
    figure.add(
        (),
        traces,
        xaxis=axis(title, rangemode="tozero"),
        yaxis=axis("", autorange="reversed", type="category"),
        barmode=mode,
        showlegend=True,
    )
    return figure
