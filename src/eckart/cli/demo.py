"""``eckart demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table

from eckart.cli.console import command, duration, megabytes, messages, output
from eckart.cli.demo_run import LENGTH, RECIPES, SAMPLES, SIZES, WINDOWS, find_demo_model, run_demo


@command
def demo(
    out: Annotated[Path, typer.Option("--output", "-o", help="Folder for the models it makes.")] = Path("eckart-demo"),
) -> None:
    """Compress a small real model with two recipes at two sizes, load each back, and measure it. Takes minutes."""
    find_demo_model()
    messages.print(
        f"SmolLM2-135M-Instruct, {len(RECIPES)} recipes at {len(SIZES)} sizes; calibrated on {SAMPLES} x {LENGTH} "
        "tokens of the Python language reference, measured on a part of it that was held out."
    )
    rows = []
    for row in run_demo(out):
        messages.print(f"{row.label}: perplexity {row.perplexity:.2f} after {duration(row.seconds)}")
        rows.append(row)
    table = Table(
        "model",
        "linear bytes kept",
        f"perplexity ({WINDOWS} x {LENGTH})",
        "weights on disk",
        "time",
        box=box.SIMPLE,
    )
    for row in rows:
        table.add_row(
            row.label,
            f"{row.keep:.1%}",
            f"{row.perplexity:.2f}",
            megabytes(row.bytes_on_disk),
            duration(row.seconds),
        )
    output.print(table)
    for row in rows:
        output.print(f"{row.label}: ", style="bold", end="")
        output.print(row.sample.replace("\n", " "))
    output.print(f"\nThe models are in {out}. Try: eckart inspect {out / rows[-1].label}", soft_wrap=True)
