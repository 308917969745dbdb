"""``eckart demo``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from eckart.checkpoint.output import PAGE, check_output
from eckart.cli.console import command, messages, output
from eckart.cli.demo.model import MODEL, find_demo_model
from eckart.cli.demo.page import write_page
from eckart.cli.demo.run import DENSE, LENGTH, PROMPT, SAMPLES, WINDOWS, Row, check_folders, run_demo
from eckart.cli.demo.steps import STEPS, Step
from eckart.cli.demo.summary import summary
from eckart.cli.demo.table import RowTable
from eckart.cli.progress import ProgressBar, progress_bar
from eckart.compression.callback import Callback
from eckart.errors import EckartError, InterruptedRun
from eckart.methods.recipes.loader import load_recipe
from eckart.report import check_installed


@command
def demo(
    out: Annotated[Path, typer.Option("--output", "-o", help="Folder for the models and the page.")] = Path(
        "eckart-demo"
    ),
) -> None:
    """Compress a small real model in four ways, load each back, measure it, and show them on a page. Takes minutes.

    What an earlier demo wrote is replaced.
    """
    source = find_demo_model()
    check_folders(out, STEPS)
    page = out / "report.html"
    out.mkdir(parents=True, exist_ok=True)
    check_output(page, kind=PAGE, overwrite=True)
    missing = _missing()
    if missing:
        messages.print(f"No page will be made of the runs. {missing}")
    messages.print(
        f"{MODEL}, calibrated on {SAMPLES} x {LENGTH} tokens of the Python language reference. Perplexity is on "
        f"{WINDOWS} x {LENGTH} tokens of a part that was held out."
    )
    rows: list[Row] = []
    table = RowTable([DENSE, *(step.name for step in STEPS)])
    try:
        for row in run_demo(source, out, STEPS, shown=_shown):
            if not rows:
                output.print(table.head)
            output.print(table.line(row))
            rows.append(row)
        if not missing:
            write_page(page, out, rows)
    except KeyboardInterrupt:
        raise InterruptedRun(_interrupted(rows, out)) from None
    output.print("\n" + "\n".join(summary(rows)))
    output.print(f"\n{PROMPT} ...", style="bold")
    for row in rows:
        output.print(f"{row.name}: ", style="bold", end="")
        output.print("... " + " ".join(row.continuation.split()))
    output.print(f"\nThe models are in {out}.", soft_wrap=True)
    if missing:
        output.print(f"There is no page of them. {missing}", soft_wrap=True)
    else:
        output.print(f"Their page is {page}. Open it in a browser: {page.resolve().as_uri()}", soft_wrap=True)


@contextmanager
def _shown(step: Step) -> Iterator[Callback]:
    """Show how far a step is while it is made."""
    with progress_bar(quiet=not messages.is_terminal) as progress:
        yield ProgressBar(load_recipe(step.recipe, keep=step.keep), progress, quiet=True)


def _missing() -> str:
    """Return what to install before a page can be made; nothing if it can."""
    try:
        check_installed()
    except EckartError as error:
        return str(error)
    return ""


def _interrupted(rows: list[Row], out: Path) -> str:
    if not rows:
        return "Interrupted. No model was finished."
    return f"Interrupted. In {out} are {', '.join(row.name for row in rows)}; the next demo makes them again."
