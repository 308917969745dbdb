"""``eckart inspect``."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Annotated

import typer

from eckart.cache import latent_cache
from eckart.cache.latent_codes import BITS
from eckart.checkpoint import load_model
from eckart.checkpoint.files import write_bytes
from eckart.checkpoint.nested import read_nested
from eckart.checkpoint.output import IMAGE, MAKER, check_output
from eckart.checkpoint.records import read_report
from eckart.cli.console import command, megabytes, output
from eckart.cli.rank_map import figure, terminal_map
from eckart.cli.sizes import sizes_of, table_of
from eckart.cli.tables import (
    all_layers,
    cache_sizes,
    distillation,
    left_alone,
    preparations,
    refinements,
    rounded_tables,
    targets,
)
from eckart.compression.result import CompressionResult
from eckart.errors import CheckpointError, EckartError, EckartWarning

IMAGE_SUFFIXES = (".png", ".svg")


@command
def inspect(
    folder: Annotated[Path, typer.Argument(help="A folder that `eckart compress` wrote.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    as_map: Annotated[
        bool, typer.Option("--map", help="Show the ranks as a map, blocks by kinds of layers, in place of the table.")
    ] = False,
    map_image: Annotated[
        Path | None, typer.Option(help="Draw that map into a .png or .svg file. Needs eckart[plots].")
    ] = None,
    cache: Annotated[
        bool,
        typer.Option("--cache", help="Run the model on a few tokens, and show what its key-value cache can keep."),
    ] = False,
    sizes: Annotated[
        bool,
        typer.Option("--sizes", help="Show the sizes that the folder serves, if it has nested ranks."),
    ] = False,
) -> None:
    """Show what was done to a model: rank, bytes and error of every layer."""
    if as_json and as_map:
        raise EckartError("--json and --map both say what to print; found both. Choose one of them.")
    if map_image and map_image.suffix.lower() not in IMAGE_SUFFIXES:
        expected = " or ".join(IMAGE_SUFFIXES)
        raise EckartError(f"--map-image takes a file that ends in {expected}; found {map_image}. Change the ending.")
    if map_image:
        check_output(map_image, kind=IMAGE, overwrite=True, reads=[folder])
    if cache and (as_map or map_image or sizes):
        raise EckartError("--cache shows the cache, and --map, --map-image and --sizes the ranks. Leave out one.")
    if cache:
        _show_cache(folder, as_json=as_json)
        return
    if sizes and (as_map or map_image):
        raise EckartError("--sizes shows sizes, and --map and --map-image the ranks of one. Leave out one of them.")
    report = read_report(folder)
    if sizes:
        _show_sizes(report, folder, as_json=as_json)
        return
    written = sum(shard.stat().st_size for shard in folder.glob("*.safetensors") if shard.is_file())
    if map_image:
        _save_image(report, map_image)
    if as_json:
        summary = {"keep": report.keep, "keep_whole_model": report.keep_whole_model, "bytes_on_disk": written}
        output.print_json(json.dumps({**summary, **json.loads(report.model_dump_json())}))
        return
    if as_map:
        for line in terminal_map(report, output.width):
            output.print(line)
        output.print()
    else:
        output.print(all_layers(report.layers))
    if report.preparations:
        output.print(preparations(report.preparations))
    if report.refinements:
        output.print(refinements(report.refinements))
    if report.distillation:
        output.print(distillation(report.distillation))
    if report.recipe.targets or report.recipe.towers:
        output.print(targets(report.recipe))
    if report.check and any(found.what for found in report.check.left):
        output.print(left_alone(report.check))
    if report.embedding:
        output.print(rounded_tables(report.embedding), markup=False)
    output.print(
        f"Recipe {report.recipe.name}. Kept {report.keep:.2%} of the bytes of the linear layers and "
        f"{report.keep_whole_model:.2%} of the whole model's; {megabytes(written)} on disk.",
        markup=False,
    )
    if report.calibration:
        record = report.calibration
        output.print(
            f"Calibrated on {record.tokens:,} tokens of {record.source} ({record.samples} x {record.length}, "
            f"seed {record.seed}, SHA-256 {record.sha256[:16]}).",
            markup=False,
        )
    for warning in report.warnings:
        output.print(f"Warning: {warning}", markup=False)
    if map_image:
        output.print(f"The map is in {map_image}.")


def _show_sizes(report: CompressionResult, folder: Path, *, as_json: bool) -> None:
    found = sizes_of(report, read_nested(folder))
    if as_json:
        output.print_json(json.dumps(found))
        return
    output.print(table_of(found))
    output.print("Load one by load_model(folder, keep=...), or write it by `eckart resize`.", markup=False)


def _show_cache(folder: Path, *, as_json: bool) -> None:
    model = load_model(str(folder))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EckartWarning)  # what it would say is in the table
        sizes = {bits: latent_cache(model, bits).size for bits in BITS}
    if as_json:
        output.print_json(json.dumps({str(bits): asdict(size) for bits, size in sizes.items()}))
        return
    output.print(cache_sizes(sizes))
    for reason, count in sizes[BITS[0]].reasons.items():
        output.print(f"{count} attention modules keep keys and values: {reason}.")


def _save_image(report: CompressionResult, path: Path) -> None:
    try:
        import matplotlib
    except ImportError as error:
        raise EckartError(f"Drawing the map needs an extra: pip install 'eckart[plots]'. ({error})") from error
    kind = path.suffix.lower().removeprefix(".")
    buffer = BytesIO()  # a drawing that fails leaves no half a file
    # Without a date and with names that are not drawn by chance, the same report gives the same bytes.
    with matplotlib.rc_context({"svg.hashsalt": "eckart"}):
        metadata = {"Date": None, "Creator": MAKER} if kind == "svg" else {"Software": MAKER}
        figure(report).savefig(buffer, format=kind, metadata=metadata)
    try:
        write_bytes(path, buffer.getvalue())
    except OSError as error:
        reason = error.strerror or error
        raise CheckpointError(f"{path} cannot be written: {reason}. Choose a file in an existing folder.") from error
