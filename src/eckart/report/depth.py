"""What grows from block to block: errors of both streams."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from eckart.compression.drift import BlockDrift, DriftError
from eckart.report.figure import DASHES, Figure, Select, Trace, axis, marker, plain, rounded
from eckart.report.runs import Run

METRICS: tuple[tuple[str, str, Callable[[DriftError], float]], ...] = (
    ("relative norm of the error", "relative norm", lambda error: error.relative),
    ("cosine distance", "cosine distance", lambda error: error.cosine),
)
Outputs = Callable[[BlockDrift], "DriftError | None"]


def first_layer(block: BlockDrift) -> DriftError | None:
    """Return the error of the first linear that the block runs: of q, where attention comes first."""
    return next(iter(block.layers.values()), None)


def last_layer(block: BlockDrift) -> DriftError | None:
    """Return the error of the last linear that the block runs: of down, where the MLP comes last."""
    return next(reversed(block.layers.values()), None)


def errors_by_depth(runs: Sequence[Run], series: dict[str, int]) -> list[Figure]:
    """Draw, for runs of one size, the errors of the first and the last linear and of the output of each block."""
    recorded = [run for run in runs if run.report is not None and run.report.blocks]
    groups: dict[tuple[str, float], list[Run]] = {}
    for run in sorted(recorded, key=lambda run: -run.keep):
        groups.setdefault((run.model, run.keep), []).append(run)
    several = len({model for model, _ in groups}) > 1
    sizes = [f"{model}, keep {keep:g}" if several else f"keep {keep:g}" for model, keep in groups]
    panels: list[tuple[str, str, Outputs]] = [
        ("depth-first", f"outputs of {_names(recorded, 0)}", first_layer),
        ("depth-last", f"outputs of {_names(recorded, -1)}", last_layer),
        ("depth-block", "outputs of the block", lambda block: block.output),
    ]
    figures = []
    for identity, what, outputs in panels:
        selects = [Select("Error", [label for label, _, _ in METRICS]), Select("Size", sizes)]
        figure = Figure(identity, f"Lines of the error of the {what} by block, one a run.", selects, height=320)
        for number, (_, title, metric) in enumerate(METRICS):
            for place, members in enumerate(groups.values()):
                figure.add(
                    (number, place),
                    _lines(members, series, outputs, metric),
                    title={"text": plain(what[0].upper() + what[1:])},
                    xaxis=axis("block"),
                    yaxis=axis(title, rangemode="tozero"),
                )
        figures.append(figure)
    return figures if groups else []


def _lines(
    runs: Sequence[Run], series: dict[str, int], outputs: Outputs, metric: Callable[[DriftError], float]
) -> list[Trace]:
    traces = []
    seen: dict[str, int] = {}
    for run in runs:
        assert run.report is not None
        errors = [outputs(block) for block in run.report.blocks]
        repeated = seen[run.recipe] = seen.get(run.recipe, -1) + 1
        number = series[run.recipe]
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "x": list(range(len(errors))),
                "y": [None if error is None else rounded(metric(error)) for error in errors],
                "hovertemplate": f"{plain(run.name)}<br>block %{{x}}: %{{y:.4g}}<extra></extra>",
                "line": {"width": 2, "dash": DASHES[repeated % len(DASHES)]},
                "marker": marker(number, 7),
                "series": number,
            }
        )
    return traces


def _names(runs: Sequence[Run], place: int) -> str:
    """Return the last parts of the names of the linears at a place, as far as the runs agree."""
    found: dict[str, None] = {}
    for run in runs:
        assert run.report is not None
        for block in run.report.blocks:
            if block.layers:
                parts = list(block.layers)[place].split(".")
                # A fused layer is a child called `joint` of the first that it stands for.
                found[".".join(parts[-2:]) if parts[-1] == "joint" else parts[-1]] = None
    return " or ".join(list(found)[:3]) or "the linear layers"
