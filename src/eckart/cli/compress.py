"""``eckart compress``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from eckart.api import DEFAULT_KEEP, DEFAULT_SAMPLES
from eckart.api import compress as compress_model
from eckart.calibration import DEFAULT_LENGTH
from eckart.checkpoint import load_model, load_tokenizer, save
from eckart.checkpoint.save import check_output
from eckart.cli.console import command, duration, megabytes, messages, output
from eckart.cli.tables import layer_kinds
from eckart.device import peak_host_memory, resolve_device
from eckart.estimate import Estimate
from eckart.plan import Plan, check_keep
from eckart.recipe import DEFAULT_RECIPE, load_recipe
from eckart.report import LayerRecord
from eckart.structure import dense_bytes
from eckart.text import PYTHON_DOCS

EPILOG = """
Examples:

    eckart compress HuggingFaceTB/SmolLM2-135M -o smaller --keep 0.8

    eckart compress model.gguf -o smaller --recipe aa-svd-layer --calibration texts.jsonl:text --samples 128
"""


@command
def compress(
    model: Annotated[str, typer.Argument(help="A local folder, a hub id, or a .gguf file.", show_default=False)],
    out: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.", show_default=False)],
    recipe: Annotated[str, typer.Option(help="Name of a recipe, or a YAML file.")] = DEFAULT_RECIPE,
    keep: Annotated[float, typer.Option(help="Bytes of the linear layers to keep, in (0, 1].")] = DEFAULT_KEEP,
    calibration: Annotated[
        str,
        typer.Option(
            help="FILE, FILE:lines, FILE:raw, FILE.jsonl[:FIELD], dataset:NAME:SPLIT[:FIELD[:CONFIG]], "
            "python-docs, or self (text sampled from the model)."
        ),
    ] = PYTHON_DOCS,
    samples: Annotated[int, typer.Option(min=1, help="Calibration samples to draw.")] = DEFAULT_SAMPLES,
    length: Annotated[
        int | None,
        typer.Option(help=f"Tokens in each.  [default: {DEFAULT_LENGTH}, or the model's context]", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, or the name of an accelerator.")] = "auto",
    override: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a field of the recipe: objective=anchored, objective.shrinkage=0.03."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output folder.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print warnings and errors only.")] = False,
) -> None:
    """Make a model smaller, and write it as a folder that loads with from_pretrained."""
    chosen = load_recipe(recipe, override or [])
    check_keep(keep)
    resolve_device(device)
    check_output(out, overwrite=overwrite)
    original = load_model(model)
    original_bytes = sum(parameter.numel() * parameter.element_size() for parameter in original.parameters())
    tokenizer = load_tokenizer(model)

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("error {task.fields[error]}"),
        TimeRemainingColumn(),
        console=messages,
        disable=quiet,
        transient=True,
    ) as progress:
        task = progress.add_task("preparing", total=None, error="-", start=False)

        def on_start(plan: Plan, cost: Estimate) -> None:
            saved = sum(
                dense_bytes(*t.shape) - chosen.structure.bytes(*t.shape, plan.ranks[t.path]) for t in plan.targets
            )
            check_output(out, overwrite=overwrite, needed=original_bytes - saved)
            if not quiet:
                messages.print(
                    f"{len(plan.targets)} linear layers in {len(plan.blocks)} blocks, recipe {chosen.name}, "
                    f"keep {keep:g}. Expected: {megabytes(cost.host_bytes)} of memory, {duration(cost.seconds)}."
                )
            progress.update(task, total=len(plan.targets))
            progress.start_task(task)

        def on_layer(record: LayerRecord) -> None:
            progress.update(task, advance=1, description=record.path, error=f"{record.error:.3f}")

        report = compress_model(
            original,
            chosen,
            keep,
            calibration,
            tokenizer=tokenizer,
            samples=samples,
            length=length,
            seed=seed,
            device=device,
            source=Path(model).name if Path(model).exists() else model,
            on_start=on_start,
            on_layer=on_layer,
        )
    save(original, report, out, tokenizer=tokenizer, overwrite=overwrite)
    if quiet:
        return
    output.print(layer_kinds(report.layers))
    output.print(
        f"Kept {report.keep:.2%} of the bytes of the linear layers, {report.keep_whole_model:.2%} of the parameters "
        f"of the whole model ({report.parameters:,} to {report.parameters_after:,})."
    )
    output.print(
        f"Took {duration(report.timings.total)}: statistics {duration(report.timings.statistics)}, "
        f"factorisation {duration(report.timings.factorisation)}; peak memory {megabytes(peak_host_memory())}."
    )
    written = sum(path.stat().st_size for path in out.glob("*.safetensors"))
    output.print(f"Wrote {out}: {megabytes(written)} of weights.", soft_wrap=True)


compress.__doc__ = f"{compress.__doc__}\n{EPILOG}"
