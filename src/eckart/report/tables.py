"""Tables as plain data; the page sorts them and gives them as CSV."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from eckart.report.figure import Select, rounded
from eckart.report.quality import Measure, best_runs, speed_up
from eckart.report.runs import Run, interval

MOST_LAYERS = 20_000  # rows of all runs together


@dataclass(frozen=True)
class Column:
    """A column: its head, what its numbers are (text, integer, number, percent, bytes, seconds), and an explanation."""

    label: str
    kind: str = "text"
    title: str = ""


@dataclass
class Table:
    """A table with a variant for each option of its choice, if it has one."""

    id: str
    columns: list[Column]
    select: Select | None = None
    variants: list[list[list[Any]]] = field(default_factory=list)

    def data(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)


def choices(runs: Sequence[Run], measure: Measure) -> Table:
    """Return the runs that are the best at their size."""
    columns = [
        Column("run"),
        Column("recipe"),
        Column("size", "bytes", "of the whole model"),
        Column("of dense", "percent", "size of the whole model over that of the dense one"),
        Column("perplexity" if measure.text else "error", "number", measure.text or "behind the last block"),
        *([Column("95 % from", "number"), Column("to", "number"), Column("× dense", "number")] if measure.text else []),
        Column("decoding", "times", "speed over the dense model's"),
    ]
    dense = next((measure.of(run) for run in runs if run.is_dense and measure.of(run) is not None), None)
    rows = []
    for run in best_runs(runs, measure):
        value, bounds = measure.of(run), measure.bounds(run)
        row: list[Any] = [run.name, run.recipe, run.bytes, _ratio(run.bytes, run.dense_bytes), rounded(value, 6)]
        if measure.text:
            row += [rounded(bounds[0], 6), rounded(bounds[1], 6)] if bounds else [None, None]
            row.append(_ratio(value, dense))
        rows.append([*row, None if run.is_dense else rounded(speed_up(run))])
    return _without_empty(Table("choices", columns, variants=[rows]))


def all_runs(runs: Sequence[Run], measures: Sequence[Measure]) -> Table:
    """Return every run with all that is known of it in one number each; columns that nothing is known for are out."""
    texts = list(dict.fromkeys(measure.text for measure in measures if measure.text))
    columns = [
        Column("run"),
        Column("recipe"),
        Column("model"),
        Column("asked", "percent", "bytes of the linear layers to keep"),
        Column("kept", "percent", "bytes of the linear layers that are kept"),
        Column("size", "bytes", "of the whole model"),
        Column("of dense", "percent", "size of the whole model over that of the dense one"),
        *(
            column
            for text in texts
            for column in (Column(f"perplexity, {text}", "number"), Column("±", "number", "half of the 95 % interval"))
        ),
        Column("layer error", "number", "mean relative error of the linear layers that was minimised"),
        Column("solver", "number", "largest share that a solution from a sketch lost more than an exact one"),
        Column("last block", "number", "relative error behind the last block, on calibration tokens"),
        Column("decoding", "times", "speed over the dense model's"),
        Column("prefill", "times", "speed over the dense model's"),
        Column("calibration", "integer", "tokens"),
        Column("time", "seconds", "of compressing"),
        Column("memory", "bytes", "largest of the process"),
    ]
    rows = []
    for run in runs:
        row: list[Any] = [
            run.name,
            run.recipe,
            run.model,
            run.keep,
            run.kept,
            run.bytes,
            _ratio(run.bytes, run.dense_bytes),
        ]
        for text in texts:
            measured = run.texts.get(text)
            bounds = interval(measured) if measured else None
            row += [
                rounded(measured.perplexity, 6) if measured else None,
                (bounds[1] - bounds[0]) / 2 if bounds else None,
            ]
        speed = run.speed if not run.is_dense else None
        used = run.report.costs.memory if run.report else None
        row += [
            rounded(run.mean_layer_error),
            rounded(run.report.largest_excess) if run.report else None,
            None if run.is_dense else rounded(run.last_error),
            _ratio(speed.decode, speed.dense_decode) if speed else None,
            _ratio(speed.prefill, speed.dense_prefill) if speed else None,
            run.tokens,
            rounded(run.seconds),
            used.host if used else None,
        ]
        rows.append(row)
    return _without_empty(Table("runs", columns, variants=[rows]))


def layers(runs: Sequence[Run]) -> tuple[Table, int] | None:
    """Return the layers of each run, and how many runs were left out so that the page stays small."""
    recorded = [run for run in runs if run.report is not None]
    if not recorded:
        return None
    columns = [
        Column("layer"),
        Column("outputs", "integer"),
        Column("inputs", "integer"),
        Column("rank", "integer", "empty: left dense"),
        Column("bytes", "integer"),
        Column("kept", "percent", "of the layer's bytes in 16 bits"),
        Column("error", "number", "relative error that was minimised, as factored"),
        Column("stream error", "number", "relative norm of the outputs' error in the compressed model"),
        Column("cosine distance", "number", "of the outputs in the compressed model"),
    ]
    sketched = any(layer.sketch for run in recorded if run.report for layer in run.report.layers)
    if sketched:
        columns += [
            Column("truncated", "number", "share that the solution from a sketch leaves out, before rounding"),
            Column("beyond exact", "number", "how much more that is than must be left out, where it was measured"),
        ]
    table = Table("layers", columns, Select("Run", []))
    total = 0
    for run in recorded:
        assert run.report is not None
        total += len(run.report.layers)
        if total > MOST_LAYERS and table.variants:
            break
        errors = {path: error for block in run.report.blocks for path, error in block.layers.items()}
        rows = []
        for layer in run.report.layers:
            error = errors.get(layer.path)
            streams = [rounded(error.relative), rounded(error.cosine)] if error else [None, None]
            kept = rounded(layer.bytes / layer.dense_bytes)
            shape = [layer.out_features, layer.in_features]
            row = [layer.path, *shape, layer.rank, layer.bytes, kept, rounded(layer.error), *streams]
            if sketched:
                found = layer.sketch
                row += [rounded(found.loss), rounded(found.excess)] if found else [None, None]
            rows.append(row)
        assert table.select is not None
        table.select.options.append(run.name)
        table.variants.append(rows)
    return table, len(recorded) - len(table.variants)


def _ratio(value: float | None, of: float | None) -> float | None:
    return None if value is None or not of else rounded(value / of)


def _without_empty(table: Table) -> Table:
    """Drop the columns that no row has anything in, and a model's name that all rows share."""
    rows = table.variants[0]
    kept = []
    for place, column in enumerate(table.columns):
        values = {row[place] for row in rows}
        alone = column.label == "model" and len(values) < 2
        if values - {None} and not alone:
            kept.append(place)
    columns = [table.columns[place] for place in kept]
    return Table(table.id, columns, table.select, [[[row[place] for place in kept] for row in rows]])
