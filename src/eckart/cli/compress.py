"""``eckart compress``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from eckart import processes
from eckart.checkpoint import load_model
from eckart.checkpoint.processor import copy_processor
from eckart.checkpoint.save import check_new_folder, new_folder
from eckart.checkpoint.tokenizer import copy_tokenizer
from eckart.cli.console import (
    Ignore,
    Only,
    TrustRemoteCode,
    command,
    duration,
    megabytes,
    output,
)
from eckart.cli.progress import ProgressBar, progress_bar
from eckart.cli.tables import distillation, layer_kinds, preparations, refinements, rounded_tables, sketches
from eckart.cli.values import dtype_called, size_in_bytes
from eckart.compression.plan import check_keep
from eckart.compression.result import CompressionResult
from eckart.data.calibration import DEFAULT_LENGTH, DEFAULT_SAMPLES, MAX_SEED
from eckart.data.text import PYTHON_DOCS
from eckart.device import peak_device_memory, peak_host_memory, resolve_device
from eckart.errors import ModelFitsError, RecipeError, suggest
from eckart.methods.layout import BYTES_PER_NUMBER
from eckart.methods.recipes.loader import load_recipe
from eckart.methods.recipes.published import DEFAULT_KEEP, DEFAULT_RECIPE, GOALS
from eckart.methods.targets import overrides_for
from eckart.run.compress_checkpoint import compress_checkpoint
from eckart.runtimes.dense import bytes_of, write_dense

EPILOG = """
Examples:

    eckart compress HuggingFaceTB/SmolLM2-135M -o smaller --keep 0.8

    eckart compress model.gguf -o smaller --recipe aa-svd --calibration texts.jsonl:text --samples 256

    eckart compress HuggingFaceTB/SmolLM2-135M -o smaller --size 80MB

    eckart compress large -o smaller --memory 8GB --resume

    eckart compress model -o smaller --ignore 'model.layers.0.*' --set 'targets.*.down_proj.keep=0.9'
"""


@command
def compress(
    model: Annotated[str, typer.Argument(help="A local folder, a hub id, or a .gguf file.", show_default=False)],
    out: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.", show_default=False)],
    recipe: Annotated[
        str | None,
        typer.Option(
            help=f"Name of a recipe, or a YAML file.  [default: {DEFAULT_RECIPE}]",
            show_default=False,
        ),
    ] = None,
    goal: Annotated[
        str | None,
        typer.Option(
            help="What to be good at, in place of --recipe: "
            + ", ".join(f"{goal} ({recipe})" for goal, recipe in GOALS.items())
            + ".",
            show_default=False,
        ),
    ] = None,
    keep: Annotated[
        float | None,
        typer.Option(
            help=f"Bytes of the linear layers to keep, in (0, 1].  [default: {DEFAULT_KEEP}]", show_default=False
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(help="Bytes of all weights in place of --keep, such as 80MB.", show_default=False),
    ] = None,
    calibration: Annotated[
        str,
        typer.Option(
            help="FILE, FILE:lines, FILE:raw, FILE.jsonl[:FIELD], dataset:NAME:SPLIT[:FIELD[:CONFIG]], "
            "python-docs, self (text sampled from the model), or a folder of images or sounds; of 'FILE + FILE' the "
            "same number of samples each."
        ),
    ] = PYTHON_DOCS,
    samples: Annotated[int, typer.Option(min=1, help="Calibration samples to draw.")] = DEFAULT_SAMPLES,
    length: Annotated[
        int | None,
        typer.Option(
            min=2, help=f"Tokens in each.  [default: {DEFAULT_LENGTH}, or the model's context]", show_default=False
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Of the draw, and of the order of training.")] = 0,
    chat: Annotated[bool, typer.Option("--chat", help="Write prompts and answers by the chat template.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, or the name of an accelerator.")] = "auto",
    override: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a field of the recipe: objective=anchored, refinement=block."),
    ] = None,
    only: Only = None,
    ignore: Ignore = None,
    memory: Annotated[
        str | None,
        typer.Option(
            help="Memory that the process may take, such as 8GB; hidden states go to files where it is too little.  "
            "[default: what is free]",
            show_default=False,
        ),
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="Of what is written: float32, bfloat16, float16; auto: as stored.")
    ] = "auto",
    max_shard_size: Annotated[
        str | None,
        typer.Option(help="Size of a file of weights, such as 5GB.  [default: a file a block]", show_default=False),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the output folder, if Eckart wrote it, and an unfinished run.")
    ] = False,
    allow_partial: Annotated[
        bool,
        typer.Option("--allow-partial", help="Go on even if less than half of the blocks' bytes can be compressed."),
    ] = False,
    latent_cache: Annotated[
        int | None,
        typer.Option(
            help="Let the key-value cache keep latents of so many bits (16, 8, 6, 5, 4, 3) in place of keys and "
            "values; 16 where these are factored, fewer everywhere.",
            show_default=False,
        ),
    ] = None,
    cache_keep: Annotated[
        float | None,
        typer.Option(
            help="Numbers of the key-value cache to keep, in (0, 1): a size of its own for the layers that give keys "
            "and values.",
            show_default=False,
        ),
    ] = None,
    nested: Annotated[
        bool,
        typer.Option("--nested", help="Order the components of all layers, so that OUTPUT serves smaller sizes too."),
    ] = False,
    trust_remote_code: TrustRemoteCode = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print warnings and errors only.")] = False,
) -> None:
    """Make a model smaller, and write it as a folder that loads with from_pretrained."""
    quiet = quiet or not processes.first_to_speak()
    recipe = recipe_for(recipe, goal)
    check_keep(DEFAULT_KEEP if keep is None else keep)
    overrides = [*(override or []), *overrides_for(only or [], ignore or [])]
    chosen = load_recipe(recipe, overrides, DEFAULT_KEEP if keep is None else keep)  # now, for the progress bar
    whole = size_in_bytes("--size", size)
    limit, shard = size_in_bytes("--memory", memory), size_in_bytes("--max-shard-size", max_shard_size)
    asked = dtype_called(dtype)
    try:
        with progress_bar(quiet=quiet) as progress:
            bar = ProgressBar(chosen, progress, quiet=quiet)
            report = compress_checkpoint(
                model,
                out,
                recipe,
                keep,
                calibration,
                size=whole,
                overrides=overrides,
                samples=samples,
                length=length,
                seed=seed,
                chat=chat,
                device=device,
                memory=limit,
                dtype=asked,
                max_shard_size=shard,
                resume=resume,
                overwrite=overwrite,
                allow_partial=allow_partial,
                latent_cache=latent_cache,
                cache_keep=cache_keep,
                nested=nested,
                trust_remote_code=trust_remote_code,
                callback=bar,
            )
    except ModelFitsError as fits:
        if processes.first_to_speak():
            _copy(model, out, asked, overwrite=overwrite, trust_remote_code=trust_remote_code)
        if not quiet:
            output.print(f"{fits} Copied it to {out}.", soft_wrap=True)
        return
    if quiet:
        return
    if bar.cost is None:
        output.print(f"{out} is finished already.", soft_wrap=True)
        return
    output.print(layer_kinds(report.layers))
    if any(layer.sketch for layer in report.layers):
        output.print(sketches(report.layers))
    if report.preparations:
        output.print(preparations(report.preparations))
    if report.refinements:
        output.print(refinements(report.refinements))
    if report.distillation:
        output.print(distillation(report.distillation))
    if report.embedding:
        output.print(rounded_tables(report.embedding), markup=False)
    _print_costs(report, bar, device)
    written = sum(path.stat().st_size for path in out.glob("*.safetensors"))
    output.print(f"Wrote {out}: {megabytes(written)} of weights.", soft_wrap=True)


def recipe_for(recipe: str | None, goal: str | None) -> str:
    """Return the recipe that was asked for, by its name or by what it is for.

    Raises:
        RecipeError: both were given, or there is no such goal.
    """
    if goal is None:
        return DEFAULT_RECIPE if recipe is None else recipe
    if recipe is not None:
        raise RecipeError("A goal stands for a recipe; found --goal and --recipe. Give one of them.")
    if goal not in GOALS:
        raise RecipeError(f"No goal is called {goal!r}{suggest(goal, GOALS)}")
    return GOALS[goal]


def _copy(model: str, out: Path, dtype: torch.dtype | None, *, overwrite: bool, trust_remote_code: bool) -> None:
    """Write a model as it is, in 16 bits: in that dtype, or if it is None in its own or in bfloat16."""
    reads = [Path(model)]
    check_new_folder(out, overwrite=overwrite, reads=reads)
    dense = load_model(model, dtype=dtype, trust_remote_code=trust_remote_code)
    if dense.dtype.itemsize > BYTES_PER_NUMBER:
        dense = dense.to(torch.bfloat16)
    with new_folder(out, overwrite=overwrite, needed=bytes_of(dense), reads=reads) as partial:
        write_dense(dense, partial)
        copy_tokenizer(model, partial)
        copy_processor(model, partial)


def _print_costs(report: CompressionResult, bar: ProgressBar, device: str) -> None:
    assert bar.cost is not None
    output.print(
        f"Kept {report.keep:.2%} of the bytes of the linear layers, {report.keep_whole_model:.2%} of those of "
        f"the whole model ({megabytes(report.whole_bytes)} to {megabytes(report.whole_bytes_after)}, at 16 bits)."
    )
    spent = report.costs.timings
    parts = {
        "allocation": spent.allocation,
        "statistics": spent.statistics,
        "preparation": spent.preparation,
        "factorisation": spent.factorisation,
        "refinement": spent.refinement,
        "distillation": spent.distillation,
        "files": spent.files,
        "records": spent.records,
    }
    memory = f"{megabytes(peak_host_memory())} (expected {megabytes(bar.cost.host_bytes)})"
    on_device = peak_device_memory(resolve_device(device))
    if on_device is not None:
        memory += f", {megabytes(on_device)} on the accelerator (expected {megabytes(bar.cost.device_bytes or 0)})"
    output.print(
        f"Took {duration(spent.total)} (expected {duration(bar.expected_seconds)}): "
        + ", ".join(f"{name} {duration(seconds)}" for name, seconds in parts.items() if seconds)
        + f"; peak memory {memory}."
    )


compress.__doc__ = f"{compress.__doc__}\n{EPILOG}"
