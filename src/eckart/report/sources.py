"""Reads what `eckart report` is given: compressed folders, sweep files, and what eval and bench printed as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ValidationError

from eckart.checkpoint.packed import STANDARD_NAME
from eckart.checkpoint.records import read_records
from eckart.errors import CheckpointError, EckartError, first_problem
from eckart.files.names import JSON_LIMIT, parse_json, read_json
from eckart.report.measured import Bench, Evaluation, join
from eckart.report.runs import DENSE, Run, text_label
from eckart.sweep.row import SweepRow
from eckart.sweep.store import read_rows

SQLITE = b"SQLite format 3\0"
UNKNOWN = "unknown model"


class _Provenance(BaseModel):
    source: str


class _Described(BaseModel):
    provenance: _Provenance


class _Config(BaseModel):
    """The part of a compressed folder's config.json that the page shows."""

    quantization_config: _Described


@dataclass
class Gathered:
    """Runs in the order in which they were named, and what could not be read or joined.

    Attributes:
        runs: that can be shown.
        notes: for people.
        left_out: how many of the paths could not be read.
    """

    runs: list[Run] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    left_out: int = 0

    def leave_out(self, reason: str) -> None:
        """Note that something could not be read."""
        self.left_out += 1
        self.notes.append(f"Left out: {reason}")


def gather(paths: Iterable[Path]) -> Gathered:
    """Read runs and measurements; what cannot be read is left out and noted.

    Raises:
        EckartError: nothing that can be shown is left.
    """
    found = Gathered()
    measurements: list[tuple[Path, Evaluation | Bench]] = []
    for path in dict.fromkeys(paths):
        try:
            if path.is_dir():
                found.runs.append(read_folder(path))
            elif not path.is_file():
                raise CheckpointError(f"There is no file or folder {path}.")
            elif _is_sqlite(path):
                rows = read_rows(path)
                if not rows:
                    found.notes.append(f"{path} holds no measurement yet.")
                several = len({row.calibration.tokens for row in rows if row.calibration}) > 1
                found.runs += [run_of_row(row, name_tokens=several) for row in rows]
            else:
                measurements.append((path, read_measurement(path)))
        except EckartError as error:
            found.leave_out(str(error))
        except OSError as error:
            found.leave_out(f"{path} cannot be read: {error.strerror or error}.")
    for path, measurement in measurements:
        if not join(found.runs, measurement):
            found.notes.append(f"{path} is of no run that was handed over: it names {measurement.names}.")
    if not found.runs:
        raise EckartError("\n".join(["There is no run to show.", *found.notes]))
    _name_apart(found.runs)
    return found


def read_folder(folder: Path) -> Run:
    """Return the run that wrote a compressed folder.

    Raises:
        CheckpointError: it is no such folder, or of another version.
    """
    report = read_records(folder)
    timings = report.costs.timings
    return Run(
        name=folder.resolve().name,
        recipe=report.recipe.name,
        model=_source(folder),
        keep=report.requested_keep,
        kept=report.keep,
        bytes=report.whole_bytes_after,
        dense_bytes=report.whole_bytes,
        calibration=report.calibration,
        seconds=timings.total or None,
        ranks={layer.path: layer.rank for layer in report.layers},
        report=report,
        folder=folder.resolve(),
    )


def run_of_row(row: SweepRow, *, name_tokens: bool = False) -> Run:
    """Return the run of one measurement of a sweep; its name says the calibration tokens if that is wanted."""
    recipe = DENSE if row.recipe is None else row.recipe.name
    tokens = f", {row.calibration.tokens:,} tokens" if name_tokens and row.calibration else ""
    return Run(
        name=recipe if row.recipe is None else f"{recipe} at {row.keep:g}{tokens}",
        recipe=recipe,
        model=row.model,
        keep=row.keep,
        kept=row.kept,
        bytes=row.bytes,
        dense_bytes=row.bytes if row.recipe is None else None,
        calibration=row.calibration,
        texts={text_label(name, measured): measured for name, measured in row.texts.items()},
        speed=row.speed,
        seconds=row.seconds or None,
        shared_seconds=row.shared_seconds,
        ranks=dict(row.ranks),
    )


def read_measurement(path: Path) -> Evaluation | Bench:
    """Return what `eckart eval --json` or `eckart bench --json` printed into a file.

    Raises:
        CheckpointError: it is something else.
    """
    expected = (
        "expected a compressed folder, a sweep file, or what `eckart eval --json` or `eckart bench --json` printed"
    )
    if path.stat().st_size > JSON_LIMIT:
        raise CheckpointError(f"{path} has {path.stat().st_size:,} bytes, more than {JSON_LIMIT:,}; {expected}.")
    try:
        data = parse_json(path)
    except CheckpointError as error:
        raise CheckpointError(f"{path} is no JSON ({error}); {expected}.") from error
    kind = Bench if isinstance(data, dict) and "speeds" in data else Evaluation
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise CheckpointError(f"{path} cannot be read ({first_problem(error)}); {expected}.") from error


def _source(folder: Path) -> str:
    """Return the name of the model that a folder was made of, as far as its config tells."""
    try:
        if (folder / STANDARD_NAME).exists():
            return _Described.model_validate(read_json(folder, STANDARD_NAME)).provenance.source
        return _Config.model_validate(read_json(folder, "config.json")).quantization_config.provenance.source
    except (CheckpointError, ValidationError):
        return UNKNOWN


def _is_sqlite(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(SQLITE)) == SQLITE


def _name_apart(runs: list[Run]) -> None:
    """Give runs of the same name numbers."""
    seen: dict[str, int] = {}
    taken = {run.name for run in runs}
    for run in runs:
        seen[run.name] = seen.get(run.name, 0) + 1
        if (number := seen[run.name]) > 1:
            name = f"{run.name} ({number})"
            while name in taken:
                number += 1
                name = f"{run.name} ({number})"
            taken.add(name)
            run.name = name
