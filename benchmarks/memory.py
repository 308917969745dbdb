"""Measures the peak memory of compressing a model from disk against its depth, or under a hard limit.

    python benchmarks/memory.py --blocks 8 --blocks 16 --blocks 32
    # as root, since it makes a memory control group:
    python benchmarks/memory.py --blocks 192 --hidden 512 --recipe svd-llm --samples 8 --limit 800MB

Makes random Llama models in bfloat16, one shard a block, in a temporary folder, and compresses each in a process of
its own. Run nothing else meanwhile.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import large_shapes
import typer
from measured_run import measured_run
from transformers import LlamaConfig

import eckart
from eckart.cli.values import parse_bytes

VOCABULARY = 32_000
GROUPS = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")


def shape(blocks: int, hidden: int) -> LlamaConfig:
    """Return the config of a model with grouped queries and tied embeddings."""
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=hidden * 11 // 4,
        num_hidden_layers=blocks,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 128,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        dtype="bfloat16",
    )


@contextmanager
def control_group(limit: int | None) -> Iterator[Path | None]:
    """Give the file that a process writes its number into to be limited to ``limit`` bytes of memory."""
    if limit is None:
        yield None
        return
    root = next(path for path in GROUPS if (path / "cgroup.procs").exists() or (path / "tasks").exists())
    group = root / f"eckart-{os.getpid()}"
    group.mkdir()
    try:
        name = "memory.limit_in_bytes" if (group / "memory.limit_in_bytes").exists() else "memory.max"
        (group / name).write_text(str(limit))
        yield group / "cgroup.procs"
    finally:
        group.rmdir()


def main(
    blocks: Annotated[list[int], typer.Option(help="Blocks of the model; may be repeated.")],
    hidden: int = 1024,
    recipe: str = "aa-svd",
    epochs: Annotated[int, typer.Option(help="Of a refinement; memory does not depend on it.")] = 1,
    keep: float = 0.6,
    samples: int = 16,
    length: int = 256,
    memory: Annotated[str | None, typer.Option(help="What the run is told that it may take.")] = None,
    limit: Annotated[str | None, typer.Option(help="Memory that the process is limited to.")] = None,
) -> None:
    """Print one row a model."""
    columns = (
        "blocks",
        "float32 size",
        "peak",
        "at import",
        "embedding, streams",
        "rest",
        "expected",
        "time",
        "expected",
    )
    print(f"| {' | '.join(columns)} |")
    print("|---|---|---|---|---|---|---|---|---|")
    for count in blocks:
        with tempfile.TemporaryDirectory() as name, control_group(parse_bytes(limit) if limit else None) as group:
            folder = Path(name)
            large_shapes.write(shape(count, hidden), folder / "model")
            large_shapes.write_tokenizer(folder / "model")
            row = measured_run(
                folder / "model",
                folder / "out",
                recipe,
                keep,
                samples=samples,
                length=length,
                memory=parse_bytes(memory) if memory else None,
                overrides=[f"refinement.epochs={epochs}"] if eckart.RECIPES[recipe].refinement.needs_data else [],
                before=f"echo $$ > {group}; " if group else "",
            )
            tokens = samples * length
            constant = VOCABULARY * hidden * 4 + (4 * tokens * hidden * 2 if row.in_memory else 0)
            cells = [4 * row.parameters, row.peak, row.loaded, constant]
            cells += [row.peak - row.loaded - constant, row.expected]
            print(
                f"| {count} | "
                + " | ".join(f"{cell / 1e6:.0f} MB" for cell in cells)
                + f" | {row.seconds['total']:.0f} s | {row.expected_seconds:.0f} s |",
                flush=True,
            )
            print(f"<!-- {row.seconds} in_memory={row.in_memory} -->", flush=True)


if __name__ == "__main__":
    typer.run(main)
