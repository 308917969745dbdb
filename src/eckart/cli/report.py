"""``eckart report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eckart.cli.console import command, megabytes, messages, output
from eckart.errors import CheckpointError

INCOMPLETE = 1  # exit code: a page was written, and something could not be read


@command
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Compressed folders, sweep files, and files with what `eckart eval --json` and `eckart bench --json` "
            "printed of them.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--output", "-o", help="File to write; replaced if it exists.")] = Path(
        "report.html"
    ),
    title: Annotated[str, typer.Option(help="Of the page.")] = "Eckart report",
) -> None:
    """Show runs side by side, as one page that opens from disk: size, quality, speed, errors by depth, ranks, costs.

    What cannot be read is left out with a note, and the exit code is then 1.
    """
    from eckart.page import build_page, gather

    if out.is_dir() or out.resolve() in {run.resolve() for run in runs}:
        kind = "a folder" if out.is_dir() else "one of the runs"
        raise CheckpointError(f"The output {out} is {kind}; expected the name of a file to write. Use another name.")
    gathered = gather(runs)
    for note in gathered.notes:
        messages.print("[bold yellow]Warning:[/] ", end="")
        messages.print(note, markup=False)
    page = build_page(gathered, title)
    try:
        out.write_text(page, encoding="utf-8", errors="replace")  # a folder's name may be no Unicode
    except OSError as error:
        reason = error.strerror or error
        raise CheckpointError(f"{out} cannot be written: {reason}. Choose a file in an existing folder.") from error
    shown = len(gathered.runs)
    output.print(f"Wrote {out}: {shown} models, {megabytes(out.stat().st_size)}.", markup=False, soft_wrap=True)
    if gathered.left_out:
        raise typer.Exit(INCOMPLETE)
