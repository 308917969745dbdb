"""``eckart report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eckart.checkpoint.files import write_bytes
from eckart.checkpoint.output import PAGE, check_output
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
    out: Annotated[Path, typer.Option("--output", "-o", help="File to write, in the place of another page.")] = Path(
        "report.html"
    ),
    title: Annotated[str, typer.Option(help="Of the page.")] = "Eckart report",
) -> None:
    """Show runs side by side, as one page that opens from disk: size, quality, speed, errors by depth, ranks, costs.

    What cannot be read is left out with a note, and the exit code is then 1.
    """
    from eckart.report import build_page, gather

    check_output(out, kind=PAGE, overwrite=True, reads=runs)
    gathered = gather(runs)
    for note in gathered.notes:
        messages.print("Warning: ", style="bold yellow", end="")
        messages.print(note)
    page = build_page(gathered, title)
    try:
        write_bytes(out, page.encode("utf-8", errors="replace"))
    except OSError as error:
        reason = error.strerror or error
        raise CheckpointError(f"{out} cannot be written: {reason}. Choose a file in an existing folder.") from error
    shown = len(gathered.runs)
    output.print(
        f"Wrote {out}: {shown} {'model' if shown == 1 else 'models'}, {megabytes(out.stat().st_size)}.", soft_wrap=True
    )
    if gathered.left_out:
        raise typer.Exit(INCOMPLETE)
