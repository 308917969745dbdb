"""Measures other packages' quantised models by the leaderboard's protocol, at the bytes of the whole file.

    python benchmarks/rivals.py MODEL --data DATA --tools TOOLS --output benchmarks/rivals.jsonl

TOOLS is what ``sh benchmarks/install_rivals.sh TOOLS`` made: an environment for each package. A package that is not
there is named, and the others are measured. What is in OUTPUT is not measured again.

llama.cpp's file has a tokenizer inside: ``tensor_bytes`` is without it. The importance matrix is that of the
calibration tokens. Where a package leaves the embedding in 16 bits, a row ``embedding int8`` rounds it by rows.
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Annotated

import torch
import typer
from harness import Rows, Texts, table
from leaderboard import CALIBRATION, LENGTH, REPORTED
from rival_packages.labels import ALL, maker, split
from rival_packages.made import Job, Made, embeddings_of, round_rows, saved_by_rounding, sizes_of, weight_files
from safetensors.torch import save_file

import eckart
from eckart.data.calibration import calibrate
from eckart.errors import EckartError

DENSE = "dense"


def main(
    model: Annotated[Path, typer.Argument(help="Folder of a dense model.")],
    data: Annotated[Path, typer.Option(help="Folder of the texts.")],
    tools: Annotated[Path, typer.Option(help="Folder of the packages' environments.")],
    output: Annotated[Path, typer.Option(help="Append the JSON lines to this file; what is in it is not repeated.")],
    rival: Annotated[
        list[str], typer.Option(help="Such as 'llama.cpp IQ3_XXS'; may be repeated.  [default: all]")
    ] = [],  # noqa: B006
    samples: Annotated[int, typer.Option(help="Of calibration, as many of each text.")] = 16,
    calibration: Annotated[list[str], typer.Option(help="Text of DATA; may be repeated, for shares.")] = list(  # noqa: B006
        CALIBRATION
    ),
    seed: int = 0,
    windows: Annotated[int, typer.Option(help="Of each text that is measured on.")] = 12,
    length: Annotated[int, typer.Option(help="Tokens in a sample and in a window.")] = LENGTH,
    cache: Annotated[Path | None, typer.Option(help="Folder to keep converted models in, for later runs.")] = None,
    limit: Annotated[float, typer.Option(help="Start no other rival after so many minutes.")] = float("inf"),
) -> None:
    """Measure perplexity and bytes of the dense model and of each rival."""
    warnings.simplefilter("ignore")
    started = perf_counter()
    labels = rival or list(ALL)
    tokenizer = eckart.load_tokenizer(model)
    assert tokenizer is not None, f"{model} has no tokenizer"
    texts = Texts([str(data / name) for name in REPORTED], tokenizer, windows, length)
    evaluation = {"texts": sorted(texts.tokens), "windows": windows, "length": length}
    here = {"calibration": calibration, "samples": samples, "seed": seed, **evaluation}
    rows = Rows(output, ("model", "recipe", *here))

    def add(label: str, made: Made, seconds: float, rounded: bool = False) -> None:
        found = eckart.load_model(made.source, dtype=torch.float32)
        saved = 0
        if rounded:
            for weight in embeddings_of(found):
                weight.copy_(round_rows(weight))
                saved += saved_by_rounding(weight)
        rows.add(
            {
                "model": model.name,
                "recipe": label,
                **here,
                "file_bytes": made.file_bytes - saved,
                "tensor_bytes": made.tensor_bytes - saved,
                "linear_bits": made.linear_bits,
                "package": made.package,
                "version": made.version,
                "log_perplexity": texts.log_perplexities(found),
                "seconds": seconds,
            }
        )

    wanted = [label for label in labels if (model.name, label, *here.values()) not in rows]
    if (model.name, DENSE, *here.values()) not in rows:
        add(DENSE, dense_made(model), 0.0)
    source = " + ".join(str(data / name) for name in calibration)
    with tempfile.TemporaryDirectory() as folder:
        if wanted:
            tokens = Path(folder) / "tokens.safetensors"
            drawn = calibrate(source, samples=samples, length=length, seed=seed, tokenizer=tokenizer)
            save_file({"ids": drawn.ids.contiguous()}, tokens)
            depends = {"texts": calibration, "samples": samples, "seed": seed, "length": length}
            job = Job(model, tokens, tools, cache, Path(folder) / "made", depends)
        for made_by, ends in grouped(wanted).items():
            if perf_counter() - started > 60 * limit:
                break
            job.scratch.mkdir()
            start = perf_counter()
            try:
                made = maker(made_by)(job)
                seconds = perf_counter() - start
                for label, rounded in ends:
                    add(label, made, seconds, rounded)
            except EckartError as error:  # a package that is not installed, say
                print(f"{made_by}: {error}", flush=True)
            shutil.rmtree(job.scratch)
    asked_for = {"model": model.name, **here}
    found = [row for row in rows.rows if asked_for.items() <= row.items()]
    first = next(row for row in found if row["recipe"] == DENSE)
    for row in found:
        row["share"] = row["file_bytes"] / first["file_bytes"]
    found.sort(key=lambda row: -row["file_bytes"])
    columns = {"recipe": "s", "file_bytes": ",d", "share": ".4f", "linear_bits": ".2f", "seconds": ".0f"}
    print(table(found, columns, first["log_perplexity"]))


def dense_made(folder: Path) -> Made:
    """Return the dense model as if a package had made it."""
    files = weight_files(folder)
    size, tensors = sum(path.stat().st_size for path in files), sum(sum(sizes_of(path).values()) for path in files)
    return Made(folder, size, tensors, 16.0, "eckart", eckart.__version__)


def grouped(labels: Sequence[str]) -> dict[str, list[tuple[str, bool]]]:
    """Return the labels by what a package is to make for them: each with whether the embedding is rounded."""
    found: dict[str, list[tuple[str, bool]]] = {}
    for label in labels:
        made_by, rounded = split(label)
        found.setdefault(made_by, []).append((label, rounded))
    return found


if __name__ == "__main__":
    typer.run(main)
