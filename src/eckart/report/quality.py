"""Quality against bytes, against speed, and against the size of the calibration."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from eckart.report.figure import DASHES, Figure, Select, Trace, axis, lines, marker, number, rounded
from eckart.report.runs import Run, interval

MEGABYTE = 1e6
SAME_SIZE = 0.005


@dataclass(frozen=True)
class Measure:
    """A number that says how good a model is, the lower the better, among models of one origin.

    Attributes:
        model: name of the dense one.
        text: what it was measured on; None for the error behind the last block.
    """

    model: str
    text: str | None

    @property
    def axis_title(self) -> str:
        """What is on an axis."""
        return "perplexity" if self.text else "relative error behind the last block"

    def of(self, run: Run) -> float | None:
        """Return the number of a run; None if it is not known, or the run is of another model."""
        if run.model != self.model:
            return None
        if self.text is None:
            return run.last_error
        measured = run.texts.get(self.text)
        return measured.perplexity if measured else None

    def bounds(self, run: Run) -> tuple[float, float] | None:
        """Return its 95 % interval."""
        measured = run.texts.get(self.text) if self.text else None
        return interval(measured) if measured else None


def measures(runs: Sequence[Run]) -> list[Measure]:
    """Return all measures that at least one run has: texts that most runs were measured on first."""
    counts: dict[Measure, int] = {}
    for run in runs:
        for text in run.texts:
            counts[Measure(run.model, text)] = counts.get(Measure(run.model, text), 0) + 1
    found = sorted(counts, key=lambda measure: -counts[measure])
    for model in dict.fromkeys(run.model for run in runs):
        if any(run.last_error is not None for run in runs if run.model == model and not run.is_dense):
            found.append(Measure(model, None))
    return found


def measure_labels(found: Sequence[Measure]) -> list[str]:
    """Return what each is called where one is chosen."""
    several = len({measure.model for measure in found}) > 1
    return [
        (f"{measure.model}: " if several else "")
        + (f"perplexity, {measure.text}" if measure.text else "error behind the last block, calibration tokens")
        for measure in found
    ]


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the numbers of the points that no other beats, by rising size.

    Args:
        points: size and loss; sizes that differ by less than :data:`SAME_SIZE` count as equal, since ranks are whole
            numbers and no two recipes hit a budget to the byte.
    """
    order = sorted(range(len(points)), key=lambda place: points[place])
    kept: list[int] = []
    best = float("inf")
    for index in order:
        size, loss = points[index]
        if loss < best:
            best = loss
            kept = [other for other in kept if points[other][0] * (1 + SAME_SIZE) < size]
            kept.append(index)
    return kept


def best_runs(runs: Sequence[Run], measure: Measure) -> list[Run]:
    """Return the runs that are the best for their bytes, the smallest first; the dense model may be the last."""
    known = [run for run in runs if measure.of(run) is not None and run.bytes is not None]
    return [known[index] for index in front([(float(run.bytes or 0), measure.of(run) or 0.0) for run in known])]


def quality_against_bytes(runs: Sequence[Run], series: dict[str, int], found: Sequence[Measure]) -> Figure | None:
    """Draw what each run costs in bytes and what it is worth, and the front of the best."""
    sizes: list[tuple[str, str, Callable[[Run], float | None]]] = [
        ("bytes of the whole model", "size of the whole model (MB)", lambda run: run.bytes and run.bytes / MEGABYTE),
        ("share of the linear layers' bytes", "bytes of the linear layers kept (%)", lambda run: _percent(run.kept)),
    ]
    selects = [Select("Quality", measure_labels(found)), Select("Size", [label for label, _, _ in sizes])]
    figure = Figure(
        "quality-bytes", "Scatter plot of quality against size, one mark a run, with the front of the best.", selects
    )
    for number_of_measure, measure in enumerate(found):
        for number_of_size, (_, title, size) in enumerate(sizes):
            known = [run for run in runs if measure.of(run) is not None and size(run) is not None]
            points = [(size(run) or 0.0, measure.of(run) or 0.0) for run in known]
            best = [points[index] for index in front(points)]
            traces = [*_front_trace(best), *_recipe_traces(known, series, measure, size)]
            log = measure.text is not None
            figure.add(
                (number_of_measure, number_of_size), traces, xaxis=axis(title), yaxis=axis(measure.axis_title, log=log)
            )
    return figure if any(variant["traces"] for variant in figure.variants.values()) else None


def quality_against_speed(runs: Sequence[Run], series: dict[str, int], found: Sequence[Measure]) -> Figure | None:
    """Draw how fast each run is beside its dense model, and what it is worth."""
    kinds = ["decoding one sequence", "prefill"]
    timed = [run for run in runs if run.speed is not None and not run.is_dense]
    shown = [measure for measure in found if any(measure.of(run) is not None for run in timed)]
    dense = [run for run in runs if run.is_dense]
    figure = Figure(
        "quality-speed",
        "Scatter plot of quality against speed, one mark a run.",
        [Select("Quality", measure_labels(shown)), Select("Speed", kinds)],
    )
    for number_of_measure, measure in enumerate(shown):
        for number_of_kind, kind in enumerate(kinds):
            known = [run for run in [*timed, *dense] if measure.of(run) is not None]
            traces = _recipe_traces(known, series, measure, partial(_speed_up, number_of_kind))
            figure.add(
                (number_of_measure, number_of_kind),
                traces,
                xaxis=axis(f"speed, {kind} (× the dense model)"),
                yaxis=axis(measure.axis_title, log=measure.text is not None),
            )
    return figure if shown else None


def quality_against_calibration(runs: Sequence[Run], series: dict[str, int], found: Sequence[Measure]) -> Figure | None:
    """Draw what more calibration tokens are worth: a line for each recipe and size with two numbers of them or more."""
    figure = Figure(
        "quality-calibration", "Lines of quality against the number of calibration tokens, one a recipe and size."
    )
    shown: list[tuple[Measure, list[Trace]]] = []
    for measure in found:
        groups: dict[tuple[str, float, str], list[Run]] = {}
        for run in runs:
            if run.tokens is not None and run.calibration is not None and measure.of(run) is not None:
                groups.setdefault((run.recipe, run.keep, run.calibration.source), []).append(run)
        traces: list[Trace] = []
        dashes: dict[float, str] = {}
        for (recipe, keep, _), members in groups.items():
            if len({run.tokens for run in members}) > 1:
                members = sorted(members, key=lambda run: run.tokens or 0)
                traces += _line(members, series[recipe], measure, lambda run: float(run.tokens or 0))
                dashes.setdefault(keep, DASHES[len(dashes) % len(DASHES)])
                traces[-1]["line"]["dash"] = dashes[keep]
        if traces:
            shown.append((measure, traces))
    figure.selects = [Select("Quality", measure_labels([measure for measure, _ in shown]))]
    for index, (measure, traces) in enumerate(shown):
        figure.add(
            (index,),
            traces,
            xaxis=axis("calibration tokens", log=True),
            yaxis=axis(measure.axis_title, log=measure.text is not None),
        )
    return figure if shown else None


def _front_trace(best: Sequence[tuple[float, float]]) -> Iterator[Trace]:
    if len(best) > 1:
        yield {
            "type": "scatter",
            "mode": "lines",
            "x": [rounded(x, 6) for x, _ in best],
            "y": [rounded(y, 6) for _, y in best],
            "line": {"width": 7, "shape": "linear"},
            "opacity": 0.18,
            "hoverinfo": "skip",
            "ink": True,
        }


def _recipe_traces(
    runs: Sequence[Run], series: dict[str, int], measure: Measure, place: Callable[[Run], float | None]
) -> list[Trace]:
    """Return a line a recipe and calibration, over sizes; the dense model is a mark of its own."""
    groups: dict[tuple[str, int | None], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.recipe, run.tokens), []).append(run)
    traces: list[Trace] = []
    for (recipe, _), members in groups.items():
        members = sorted(members, key=lambda run: run.kept or 0.0)
        traces += _line(members, series.get(recipe), measure, place)
    return traces


def _line(
    members: Sequence[Run], number_of_series: int | None, measure: Measure, place: Callable[[Run], float | None]
) -> list[Trace]:
    values = [measure.of(run) for run in members]
    trace: Trace = {
        "type": "scatter",
        "mode": "lines+markers" if len(members) > 1 and number_of_series is not None else "markers",
        "x": [rounded(place(run), 6) for run in members],
        "y": [rounded(value, 6) for value in values],
        "text": [tooltip(run, measure) for run in members],
        "hovertemplate": "%{text}<extra></extra>",
        "line": {"width": 1.5},
    }
    if number_of_series is None:
        trace |= {"ink": True, "marker": {"symbol": "star", "size": 14}}
    else:
        trace |= {"series": number_of_series, "marker": marker(number_of_series)}
    bounds = [measure.bounds(run) for run in members]
    if any(bounds):
        trace["error_y"] = {
            "type": "data",
            "symmetric": False,
            "array": [rounded(b[1] - (v or 0)) if b else 0 for b, v in zip(bounds, values, strict=True)],
            "arrayminus": [rounded((v or 0) - b[0]) if b else 0 for b, v in zip(bounds, values, strict=True)],
            "thickness": 1,
            "width": 0,
        }
    return [trace]


def tooltip(run: Run, measure: Measure) -> str:
    """Return what is to be read beside a mark."""
    bounds = measure.bounds(run)
    between = f" (95 % between {number(bounds[0], 4)} and {number(bounds[1], 4)})" if bounds else ""
    size = None if run.bytes is None else f"{run.bytes / MEGABYTE:,.1f} MB"
    if run.bytes is not None and run.dense_bytes:
        size = f"{size}, {run.bytes / run.dense_bytes:.1%} of the dense model"
    speed = None
    if run.speed is not None and not run.is_dense:
        speed = f"decoding × {number(_speed_up(0, run))}, prefill × {number(_speed_up(1, run))}"
    return lines(
        run.name,
        None if run.name == run.recipe else f"recipe {run.recipe}",
        f"{measure.axis_title} {number(measure.of(run), 4)}{between}",
        size,
        None if run.kept is None else f"{run.kept:.1%} of the linear layers' bytes",
        speed,
        f"{run.tokens:,} calibration tokens" if run.tokens else None,
    )


def _speed_up(kind: int, run: Run) -> float | None:
    if run.is_dense:
        return 1.0
    if run.speed is None:
        return None
    now, dense = (run.speed.prefill, run.speed.dense_prefill) if kind else (run.speed.decode, run.speed.dense_decode)
    return now / dense if dense else None


def speed_up(run: Run) -> float | None:
    """Return how many times as fast as the dense model a run decodes."""
    return _speed_up(0, run)


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share
