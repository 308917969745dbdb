"""Measures what compression costs: time by what it is spent on, and peak memory, against what was expected.

    python benchmarks/cost.py MODEL --calibration valid.txt --recipe svd-llm --recipe aa-svd-layer

Each recipe runs in a process of its own, so that its peak memory is its own. Run nothing else meanwhile.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import Annotated
from unittest import mock

import torch
import typer

import eckart
from eckart.compression.estimate import Estimate
from eckart.compression.plan import Plan
from eckart.data.calibration import Calibration, calibrate
from eckart.device import host_memory, peak_host_memory

PHASES = ("factorisation", "refinement", "distillation", "files", "total")


def forward_seconds(model: str, calibration: Calibration, clock: Callable[[], float] = perf_counter) -> float:
    """Return the seconds of one forward pass of the whole model in float32 over all calibration tokens."""
    dense = eckart.load_model(model, dtype=torch.float32)
    batches = list(calibration.batches())
    with torch.no_grad():
        dense(**batches[0], use_cache=False)  # not counted: the first call allocates
        start = clock()
        for batch in batches:
            dense(**batch, use_cache=False)
        return clock() - start


def measure_forward(model: str, source: str, samples: int, length: int) -> float:
    tokenizer = eckart.load_tokenizer(model)
    return forward_seconds(model, calibrate(source, samples=samples, length=length, seed=0, tokenizer=tokenizer))


class Listener(eckart.Callback):
    """Keeps the estimate that a run starts with."""

    def __init__(self, expected: list[Estimate]) -> None:
        self.expected = expected

    def on_start(self, plan: Plan, cost: Estimate, finished: int) -> None:
        self.expected.append(cost)


def measure(
    model: str, recipe: str, keep: float, source: str, samples: int, length: int, float32: bool
) -> dict[str, float]:
    """Compress once, from disk to disk as the command does, and return seconds and bytes."""
    warnings.simplefilter("ignore")
    if float32:
        mock.patch("eckart.device.is_emulated", return_value=True).start()
    expected: list[Estimate] = []
    name, *overrides = recipe.split("+")
    imported = host_memory()
    with tempfile.TemporaryDirectory() as folder:
        report = eckart.compress_checkpoint(
            model,
            Path(folder) / "out",
            name,
            keep,
            source,
            samples=samples,
            length=length,
            overrides=overrides,
            callback=Listener(expected),
        )
    (cost,) = expected
    return {
        **report.costs.timings.model_dump(),
        "expected_seconds": cost.allocation_seconds + cost.seconds + cost.distillation_seconds,
        "imported_bytes": imported,
        "peak_bytes": peak_host_memory(),
        "expected_bytes": cost.host_bytes,
    }


def main(
    model: Annotated[str, typer.Argument(help="Local folder or hub id.")],
    calibration: Annotated[str, typer.Option(help="Text to calibrate on.")],
    recipe: Annotated[list[str], typer.Option(help="Recipe, with +key=value overrides appended; may be repeated.")],
    keep: float = 0.8,
    samples: int = 16,
    length: int = 1024,
    float32: Annotated[
        bool, typer.Option("--float32", help="Compute as on a CPU that only emulates 16-bit matrix products.")
    ] = False,
) -> None:
    """Print one row a recipe."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as pool:
        forward = pool.submit(measure_forward, model, calibration, samples, length).result()
        print(f"One forward pass of {samples} x {length} tokens in float32: {forward:.1f} s\n")
        columns = ["recipe", "ranks", "statistics", "in forward passes", *PHASES]
        columns += ["expected", "peak memory", "expected", "at import"]
        print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
        for name in recipe:
            row = pool.submit(measure, model, name, keep, calibration, samples, length, float32).result()
            phases = [f"{row[phase]:.1f} s" for phase in PHASES]
            sizes = [f"{row[size] / 1e6:.0f} MB" for size in ("peak_bytes", "expected_bytes", "imported_bytes")]
            expected = f"{row['expected_seconds']:.1f} s"
            before = [f"{row[phase]:.1f} s" for phase in ("allocation", "statistics")]
            cells = [name, *before, f"{row['statistics'] / forward:.2f}", *phases]
            print(f"| {' | '.join([*cells, expected, *sizes])} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
