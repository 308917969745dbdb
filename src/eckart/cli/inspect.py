"""``eckart inspect``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from eckart.cli.console import command, megabytes, output
from eckart.cli.tables import all_layers, refinements
from eckart.errors import CheckpointError
from eckart.report import REPORT_NAME, Report


@command
def inspect(
    folder: Annotated[Path, typer.Argument(help="A folder that `eckart compress` wrote.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what was done to a model: rank, bytes and error of every layer."""
    path = folder / REPORT_NAME
    if not path.is_file():
        raise CheckpointError(f"{folder} holds no {REPORT_NAME}; expected a folder that `eckart compress` wrote.")
    try:
        report = Report.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    written = sum(shard.stat().st_size for shard in folder.glob("*.safetensors"))
    if as_json:
        summary = {"keep": report.keep, "keep_whole_model": report.keep_whole_model, "bytes_on_disk": written}
        output.print_json(json.dumps({**summary, **json.loads(report.model_dump_json())}))
        return
    output.print(all_layers(report.layers))
    if report.refinements:
        output.print(refinements(report.refinements))
    output.print(
        f"Recipe {report.recipe.name}. Kept {report.keep:.2%} of the bytes of the linear layers and "
        f"{report.keep_whole_model:.2%} of all parameters; {megabytes(written)} on disk."
    )
    if report.calibration:
        record = report.calibration
        output.print(
            f"Calibrated on {record.tokens:,} tokens of {record.source} ({record.samples} x {record.length}, "
            f"seed {record.seed}, SHA-256 {record.sha256[:16]})."
        )
    for warning in report.warnings:
        output.print(f"Warning: {warning}")
