"""``eckart sweep``."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich import box
from rich.progress import Progress
from rich.table import Table

from eckart import processes
from eckart.checkpoint import load_model, load_tokenizer
from eckart.checkpoint.output import SWEEP, check_output
from eckart.cli.console import (
    Ignore,
    Only,
    TrustRemoteCode,
    command,
    duration,
    megabytes,
    messages,
    output,
)
from eckart.cli.progress import progress_display
from eckart.cli.values import size_in_bytes
from eckart.data.calibration import DEFAULT_LENGTH, DEFAULT_SAMPLES, MAX_SEED
from eckart.data.text import PYTHON_DOCS
from eckart.errors import EckartError
from eckart.sweep import (
    Failure,
    Sweep,
    SweepCallback,
    SweepRow,
    best_within,
    command_for,
    prepare,
    smallest_within,
)
from eckart.sweep.case import Case

FAILED = 1  # exit code of a sweep in which a row failed, or that has no row of the wanted kind

Number = TypeVar("Number", int, float)

EPILOG = """
Examples:

    eckart sweep model -o sweep.sqlite --recipes svd-llm,zs-svd,io-svd+structure=pivoted --keep 0.9,0.8 --text test.txt

    eckart sweep model -o sweep.sqlite --recipes zs-svd --keep 0.9,0.8,0.7 --text test.txt --target-ppl 30
"""


class SweepProgress(SweepCallback):
    """Shows the row that is worked on, and how many are left."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.task = progress.add_task("preparing", total=None)
        self.doing = ""
        self.failures: list[Failure] = []

    def on_sweep(self, missing: int, cases: int) -> None:
        """Start the bar."""
        self.progress.update(self.task, total=cases, completed=cases - missing)

    def on_statistics(self, recipes: int, samples: int | None) -> None:
        """Show what is measured for several rows."""
        data = "" if samples is None else f" on {samples} samples"
        self._show(f"statistics for {recipes} recipe{'s' if recipes > 1 else ''}{data}")

    def on_case(self, case: Case) -> None:
        """Show which row is made."""
        self._show(str(case))

    def on_measurement(self, done: int, total: int) -> None:
        """Show how far a measurement has come."""
        self.progress.update(self.task, description=f"{self.doing}: {done} of {total}")

    def on_block(self, finished: int) -> None:
        """Show how far a walk has come."""
        self.progress.update(self.task, description=f"{self.doing}: block {finished}")

    def on_row(self, row: SweepRow) -> None:
        """Advance by one row."""
        self.progress.update(self.task, advance=1)

    def on_failure(self, failure: Failure) -> None:
        """Print what failed, and go on."""
        self.failures.append(failure)
        messages.print("Failed: ", style="bold red", end="")
        messages.print(f"{failure.label} at {failure.keep:g}: {failure.message}")
        self.progress.update(self.task, advance=1)

    def _show(self, text: str) -> None:
        self.doing = text
        self.progress.update(self.task, description=text)


@command
@processes.together()
def sweep(
    model: Annotated[str, typer.Argument(help="A local folder, a hub id, or a .gguf file.", show_default=False)],
    out: Annotated[Path, typer.Option("--output", "-o", help="File to write; what is in it is not measured again.")],
    recipes: Annotated[
        str, typer.Option(help="Names or YAML files, +key=value appended, with commas between.", show_default=False)
    ],
    text: Annotated[
        list[str], typer.Option(help="Text to measure on, as for `eckart eval`; may be repeated.", show_default=False)
    ],
    keep: Annotated[str, typer.Option(help="Bytes of the linear layers to keep, with commas between.")] = "0.9,0.8,0.6",
    calibration: Annotated[str, typer.Option(help="As for `eckart compress`.")] = PYTHON_DOCS,
    samples: Annotated[
        str, typer.Option(help="Calibration samples; several numbers with commas.")
    ] = f"{DEFAULT_SAMPLES}",
    length: Annotated[
        int | None,
        typer.Option(
            min=2, help=f"Tokens in each.  [default: {DEFAULT_LENGTH}, or the model's context]", show_default=False
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Of the draw, and of the order of training.")] = 0,
    only: Only = None,
    ignore: Ignore = None,
    windows: Annotated[int, typer.Option(min=1, help="Windows of each text to measure on.")] = 20,
    window_length: Annotated[
        int | None,
        typer.Option(min=2, help="Tokens in each.  [default: 1024, or the model's context]", show_default=False),
    ] = None,
    speed: Annotated[bool, typer.Option("--speed", help="Time each model against the dense one.")] = False,
    target_ppl: Annotated[
        float | None, typer.Option(help="Pick the smallest model of at most this perplexity on the first text.")
    ] = None,
    target_bytes: Annotated[
        str | None, typer.Option(help="Pick the lowest perplexity on the first text at no more than, say, 200MB.")
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            help="Memory for shared statistics, such as 8GB; else they go to files.  [default: half of what is free]",
            show_default=False,
        ),
    ] = None,
    allow_partial: Annotated[bool, typer.Option("--allow-partial", help="As for `eckart compress`.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, or the name of an accelerator.")] = "auto",
    trust_remote_code: TrustRemoteCode = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure recipes at sizes: all combinations, with one calibration and one collection of statistics.

    The dense model is measured too. A sweep that was stopped goes on with the same command. A recipe that fails is
    written down, and the exit code is then 1. The model is held in memory, with a few copies.
    """
    if target_ppl is not None and target_bytes is not None:
        raise EckartError("--target-ppl and --target-bytes ask for different things. Use one of them.")
    if target_ppl is not None and not 1 <= target_ppl < math.inf:
        raise EckartError(f"--target-ppl takes a perplexity, 1 or more; found {target_ppl:g}.")
    if speed and processes.size() > 1:
        raise EckartError("--speed times models, which several processes at once do not let alone. Start one process.")
    limit = size_in_bytes("--target-bytes", target_bytes)
    labels = [label.strip() for label in re.split(r",(?![^\[]*\])", recipes)]  # lists of numbers have commas too
    files = [label.partition("+")[0] for label in labels]
    check_output(out, kind=SWEEP, overwrite=True, reads=[Path(model), calibration, *text, *files])
    with progress_display(disable=as_json or processes.rank() > 0) as progress:
        bar = SweepProgress(progress)
        if processes.rank():
            processes.wait()  # for the file
        ready = prepare(
            load_model(model, trust_remote_code=trust_remote_code),
            labels,
            _numbers("--keep", keep, float),
            output=out,
            texts=text,
            calibration=calibration,
            samples=_numbers("--samples", samples, int),
            length=length,
            seed=seed,
            only=only or [],
            ignore=ignore or [],
            windows=windows,
            window_length=window_length,
            speed=speed,
            tokenizer=load_tokenizer(model, trust_remote_code=trust_remote_code),
            device=device,
            memory=size_in_bytes("--memory", memory),
            allow_partial=allow_partial,
            source=Path(model).name if Path(model).exists() else model,
            callback=bar,
        )
        if not processes.rank():
            processes.wait()
        try:
            for _ in ready.run():
                pass
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"Interrupted. {len(ready.rows())} rows are in {out}: the same command goes on."
            ) from None
    failures = [Failure(**found) for each in processes.gather([f.model_dump() for f in bar.failures]) for found in each]
    if processes.rank():
        return
    rows, first = ready.rows(), next(iter(ready.evaluation.texts))
    best, wanted = None, ""
    if target_ppl is not None:
        best, wanted = smallest_within(rows, first, target_ppl), f"a perplexity of at most {target_ppl:g} on {first}"
    if limit is not None:
        best, wanted = best_within(rows, first, limit), f"at most {megabytes(limit)}"
    made_by = "" if best is None else command_for(best, model, calibration)
    if as_json:
        _print_json(ready, rows, failures, best, made_by)
    else:
        output.print(_table(rows))
        output.print(f"{len(rows)} rows are in {out}.", soft_wrap=True)
        _print_best(best, wanted, made_by)
    if failures or (wanted and best is None):
        raise typer.Exit(FAILED)


def _numbers(option: str, text: str, kind: Callable[[str], Number]) -> list[Number]:
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise EckartError(f"{option} takes numbers with commas between them, found {text!r}.") from None


def _table(rows: Sequence[SweepRow]) -> Table:
    several = len({row.calibration.samples for row in rows if row.calibration}) > 1
    timed = any(row.speed for row in rows)
    texts = list(dict.fromkeys(name for row in rows for name in row.texts))
    columns = ["recipe", *(["samples"] if several else []), "keep", "kept", "bytes", *texts]
    table = Table(*columns, *(["decode", "prefill"] if timed else []), "time", box=box.SIMPLE)
    for row in rows:
        cells = [row.label]
        if several:
            cells.append(str(row.calibration.samples) if row.calibration else "")
        cells += [f"{row.keep:g}", f"{row.kept:.2%}", megabytes(row.bytes)]
        cells += [f"{row.texts[name].perplexity:.4g}" for name in texts]
        if timed and row.speed:
            cells.append(f"x{row.speed.decode / row.speed.dense_decode:.2f}")
            cells.append(f"x{row.speed.prefill / row.speed.dense_prefill:.2f}")
        elif timed:
            cells += ["", ""]
        table.add_row(*cells, duration(row.seconds) if row.recipe else "")
    return table


def _print_best(best: SweepRow | None, wanted: str, made_by: str) -> None:
    if not wanted:
        return
    if best is None:
        output.print(f"No compressed model of this sweep has {wanted}.", soft_wrap=True)
        return
    found = ", ".join(f"{name} {measured.perplexity:.4g}" for name, measured in best.texts.items())
    output.print(f"Best with {wanted}: ", end="", soft_wrap=True)
    output.print(f"{best.label} at {best.keep:g}, {megabytes(best.bytes)}, perplexity {found}.")
    output.print(f"Make it with: {made_by}", soft_wrap=True)


def _print_json(
    ready: Sweep, rows: Sequence[SweepRow], failures: Sequence[Failure], best: SweepRow | None, made_by: str
) -> None:
    facts: dict[str, Any] = {
        "file": str(ready.store.path),
        "rows": [row.model_dump(mode="json") for row in rows],
        "failures": [failure.model_dump() for failure in failures],
        "best": None if best is None else {"row": best.model_dump(mode="json"), "command": made_by},
    }
    output.print_json(json.dumps(facts))


sweep.__doc__ = f"{sweep.__doc__}\n{EPILOG}"
