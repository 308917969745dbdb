"""Times our recipes beside what the authors' own code took (benchmarks/peers.md).

    python benchmarks/peers.py MODEL --calibration TEXT

Their numbers are an input, ``--theirs``: a list of rows with ``method``, ``recipe``, ``keep``, ``seconds`` and
``peak_gb``. Seconds are of the processor, in user mode, of a whole process; those of one pass of the model over the
tokens in float32 are printed with them, since processors differ. Run nothing else meanwhile.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import tempfile
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated

import typer
from cost import forward_seconds
from pydantic import BaseModel, TypeAdapter

import eckart
from eckart.data.calibration import calibrate
from eckart.device import peak_host_memory

THEIRS = Path(__file__).with_suffix(".json")


class Row(BaseModel):
    """What the authors' code took for one of their methods, and the recipe of ours that does the same."""

    method: str
    recipe: str
    keep: float
    seconds: float
    peak_gb: float


def user_seconds() -> float:
    """Return what this process has used of the processor."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime


def compress(model: str, row: Row, text: str, samples: int, length: int) -> tuple[float, int]:
    """Return the seconds and the most bytes of this process, which does nothing else."""
    warnings.simplefilter("ignore")
    recipe, *overrides = row.recipe.split("+")
    with tempfile.TemporaryDirectory() as folder:
        eckart.compress_checkpoint(
            model, Path(folder) / "out", recipe, row.keep, text, samples=samples, length=length, overrides=overrides
        )
    return user_seconds(), peak_host_memory()


def one_pass(model: str, text: str, samples: int, length: int) -> float:
    """Return the seconds of one pass over the tokens in float32."""
    drawn = calibrate(text, samples=samples, length=length, seed=0, tokenizer=eckart.load_tokenizer(model))
    return forward_seconds(model, drawn, user_seconds)


def main(
    model: str,
    calibration: Annotated[str, typer.Option(help="Text, as `eckart compress` takes it.")] = "python-docs",
    samples: int = 16,
    length: int = 1024,
    theirs: Annotated[Path, typer.Option(help="What the authors' code took.")] = THEIRS,
) -> None:
    """Print a row for each of theirs."""
    rows = TypeAdapter(list[Row]).validate_python(json.loads(theirs.read_text()))
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn) as pool:
        unit = pool.submit(one_pass, model, calibration, samples, length).result()
    print(f"One pass over {samples} x {length} tokens in float32: {unit:.1f} s of the processor.\n")
    print("| theirs | ours | keep | theirs | ours | ours / theirs | passes | peak, theirs | ours |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for row in rows:
        with ProcessPoolExecutor(1, spawn) as pool:
            seconds, peak = pool.submit(compress, model, row, calibration, samples, length).result()
        cells = [row.method, f"`{row.recipe}`", f"{row.keep:g}", f"{row.seconds:.0f} s", f"{seconds:.0f} s"]
        cells += [f"{seconds / row.seconds:.2f}", f"{seconds / unit:.1f}", f"{row.peak_gb:.2f} GB"]
        print(f"| {' | '.join([*cells, f'{peak / 1e9:.2f} GB'])} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
