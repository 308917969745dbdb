"""What trainings did: preparations and refinements of blocks, and distillations of models."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from eckart.methods.preparation.record import PreparationRecord
from eckart.methods.refinement.record import RefinementRecord
from eckart.methods.training.record import TrainingRecord
from eckart.report.figure import DASHES, Figure, Select, Trace, axis, marker, plain, rounded, thinned
from eckart.report.runs import Run

MOST_EPOCH_LINES = 12


def refinement(runs: Sequence[Run]) -> list[Figure]:
    """Draw, for each refined run, the loss of each block before and after, and by epoch."""
    return _of_blocks("refinement", [(run.name, run.report.refinements) for run in runs if run.report is not None])


def preparation(runs: Sequence[Run]) -> list[Figure]:
    """Draw, for each prepared run, the loss of each block cut to its ranks before and after, and by epoch."""
    return _of_blocks("preparation", [(run.name, run.report.preparations) for run in runs if run.report is not None])


def _of_blocks(what: str, runs: Iterable[tuple[str, Sequence[RefinementRecord | PreparationRecord]]]) -> list[Figure]:
    """Draw the losses of trainings of blocks, those of runs with their names."""
    trained = [(name, records) for name, records in runs if records]
    if not trained:
        return []
    selects = [Select("Run", [name for name, _ in trained])]
    by_block = Figure(f"{what}-blocks", f"The loss of each block before and after its {what}.", selects)
    by_epoch = Figure(f"{what}-epochs", "The loss by epoch, a line for each of some blocks.", selects)
    for index, (_, records) in enumerate(trained):
        held_out = all(record.before is not None for record in records)
        title = "relative loss, " + ("held-out samples" if held_out else "training samples")
        before = [record.before for record in records]
        after = [record.after for record in records]
        if not held_out:
            before = [record.epochs[0].training if record.epochs else None for record in records]
            after = [record.epochs[-1].training if record.epochs else None for record in records]
        labels = (
            (("before", before), ("after", after)) if held_out else (("first epoch", before), ("last epoch", after))
        )
        by_block.add(
            (index,),
            [_losses(label, values, open_mark=place == 0) for place, (label, values) in enumerate(labels)],
            xaxis=axis("block"),
            yaxis=axis(title, log=True),
            showlegend=True,
        )
        traces = []
        for place in thinned(len(records), MOST_EPOCH_LINES):
            record = records[place]
            curve = _by_epoch(record, record.block, held_out=held_out)
            traces.append({**curve, "mode": "lines", "depth": place / max(1, len(records) - 1)})
        by_epoch.add((index,), traces, xaxis=axis("epoch"), yaxis=axis(title, log=True))
    return [by_block, by_epoch]


def _losses(label: str, values: Sequence[float | None], *, open_mark: bool) -> Trace:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": label,
        "x": list(range(len(values))),
        "y": [rounded(value) for value in values],
        "hovertemplate": f"block %{{x}}, {label}: %{{y:.4g}}<extra></extra>",
        "line": {"width": 1.5, "dash": "dot" if open_mark else "solid"},
        "marker": {"size": 8, "symbol": "circle-open" if open_mark else "circle"},
        "series": 1 if open_mark else 0,
        "always": True,
    }


def distillation(runs: Sequence[Run], series: dict[str, int]) -> Figure | None:
    """Draw the loss of each distilled run by epoch."""
    figure = Figure("distillation-epochs", "The loss of each distilled model by epoch, a line for each run.")
    traces: list[Trace] = []
    for run in runs:
        record = run.report.distillation if run.report is not None else None
        if record is not None:
            number = series[run.recipe]
            curve = _by_epoch(record, run.name, held_out=record.before is not None)
            dash = DASHES[sum(trace["series"] == number for trace in traces) % len(DASHES)]
            curve |= {"mode": "lines+markers", "line": {"width": 2, "dash": dash}, "marker": marker(number, 7)}
            traces.append({**curve, "series": number})
    if not traces:
        return None
    figure.add((), traces, xaxis=axis("epoch"), yaxis=axis("loss, nats a token", log=True))
    return figure


def _by_epoch(record: TrainingRecord, name: str, *, held_out: bool) -> Trace:
    losses = [epoch.held_out if held_out else epoch.training for epoch in record.epochs]
    numbers = list(range(1, len(losses) + 1))
    if held_out:
        losses, numbers = [record.before, *losses], [0, *numbers]
    return {
        "type": "scatter",
        "x": numbers,
        "y": [rounded(loss) for loss in losses],
        "hovertemplate": f"{plain(name)}<br>epoch %{{x}}: %{{y:.4g}}<extra></extra>",
        "line": {"width": 1.5},
    }
