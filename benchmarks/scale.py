"""Compresses a random model of a public shape from disk: seconds of a block by kind of work, memory, bytes of files.

    python benchmarks/scale.py llama-2-7b --blocks 2 --samples 8 --length 1024 --recipe svd-llm --memory 16GB
    # On an accelerator, all blocks:
    python benchmarks/scale.py llama-2-7b --samples 256 --length 2048 --recipe svd-llm --recipe saes-svd \
        --recipe eckart-fast

The model is made first, block by block (benchmarks/large_shapes.py). Each recipe runs in a process of its own. Where
only some blocks are made, the time of all is extrapolated: what comes once, and a block as often as the shape has it.
Run nothing else meanwhile.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import large_shapes
import typer
from measured_run import Measured, measured_run

from eckart.cli.values import parse_bytes

KINDS = ("allocation", "statistics", "factorisation", "refinement", "distillation", "files")
COLUMNS = ("recipe", *KINDS, "a block", "total", "all blocks", "peak", "expected", "accelerator", "model", "written")


def cells(recipe: str, row: Measured, blocks: int, all_blocks: int) -> list[str]:
    """Return those of a row: seconds of one block by kind, what it all took, and what all blocks would take."""
    seconds = {kind: row.seconds[kind] for kind in KINDS}
    of_a_block = sum(seconds.values()) / blocks
    once = row.seconds["total"] - sum(seconds.values())
    return [
        recipe,
        *(f"{value / blocks:.1f} s" if value else "" for value in seconds.values()),
        f"{of_a_block:.1f} s",
        f"{row.seconds['total']:.0f} s",
        f"{once + all_blocks * of_a_block:.0f} s" if blocks < all_blocks else "",
        gigabytes(row.peak),
        gigabytes(row.expected),
        *(gigabytes(number) for number in (row.device, row.source, row.written)),
    ]


def gigabytes(number: int | None) -> str:
    """Return a number of bytes, or nothing."""
    return "" if number is None else f"{number / 1e9:.2f} GB"


def main(
    shape: str,
    recipe: Annotated[list[str], typer.Option(help="May be repeated.")],
    blocks: Annotated[int | None, typer.Option(help="Of the model that is made; all by default.")] = None,
    vocabulary: Annotated[int | None, typer.Option(help="Of the model that is made.")] = None,
    keep: float = 0.6,
    samples: int = 8,
    length: int = 1024,
    memory: Annotated[str | None, typer.Option(help="What the run is told that it may take.")] = None,
    device: str = "auto",
    override: Annotated[list[str] | None, typer.Option("--set", help="A change to the recipes.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Where the model is, or is to be made and left.")] = None,
) -> None:
    """Print a row for each recipe."""
    config = large_shapes.shape(shape, blocks, vocabulary)
    all_blocks = large_shapes.shape(shape).num_hidden_layers
    with tempfile.TemporaryDirectory() as name:
        source = folder or Path(name) / "model"
        if not source.exists():
            large_shapes.write(config, source, device="cpu" if device == "auto" else device)
            large_shapes.write_tokenizer(source)
        print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
        for label in recipe:
            row = measured_run(
                source,
                Path(name) / label,
                label,
                keep,
                samples=samples,
                length=length,
                memory=parse_bytes(memory) if memory else None,
                device=device,
                overrides=override or [],
            )
            print(f"| {' | '.join(cells(label, row, config.num_hidden_layers, all_blocks))} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
