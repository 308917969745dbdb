"""What was lost by keeping less in the key-value cache, against the bytes of a token in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eckart.evaluate import Perplexity
from eckart.report.figure import Figure, Select, Trace, axis, lines, marker, number, plain, rounded
from eckart.report.runs import Run, interval, text_label


def quality_against_cache(runs: Sequence[Run], series: Mapping[str, int]) -> Figure | None:
    """Draw a mark for each cache that a run was measured with; None if there is none.

    Args:
        runs: all of them.
        series: number of each recipe.
    """
    texts = list(dict.fromkeys(label for run in runs for label, _ in run.caches))
    if not texts:
        return None
    figure = Figure(
        "caches",
        "Marks of perplexity against the bytes that a token takes in the key-value cache.",
        [Select("text", texts)],
    )
    for place, text in enumerate(texts):
        traces = [
            _trace(run, [found for label, found in run.caches if label == text], series.get(run.recipe)) for run in runs
        ]
        figure.add(
            (place,),
            [trace for trace in traces if trace["x"]],
            xaxis=axis("bytes of a token in the cache", rangemode="tozero"),
            yaxis=axis("perplexity"),
            showlegend=True,
        )
    return figure


def cache_label(name: str, measured: Perplexity) -> str:
    """Return what a perplexity was measured on, where windows were read in pieces."""
    return f"{text_label(name, measured)}, in pieces of {measured.piece}"


def _trace(run: Run, found: Sequence[Perplexity], series: int | None) -> Trace:
    ordered = sorted(found, key=lambda measured: measured.cache_token_bytes or 0.0)
    ends = [interval(measured) for measured in ordered]
    trace: Trace = {
        "type": "scatter",
        "mode": "markers+lines",
        "name": plain(run.name),
        "x": [rounded(measured.cache_token_bytes) for measured in ordered],
        "y": [rounded(measured.perplexity) for measured in ordered],
        "text": [
            lines(
                run.name,
                f"cache {measured.cache}",
                f"{number(measured.cache_token_bytes)} bytes a token",
                f"perplexity {number(measured.perplexity)}",
                None if span is None else f"95 % between {number(span[0])} and {number(span[1])}",
            )
            for measured, span in zip(ordered, ends, strict=True)
        ],
        "hovertemplate": "%{text}<extra></extra>",
        "marker": marker(series or 0),
        "always": True,
    }
    return trace | ({"ink": True} if series is None else {"series": series})
