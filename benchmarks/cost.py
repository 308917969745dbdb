"""Measures what compression costs: time against one plain forward pass, and peak memory against the model's size.

    python benchmarks/cost.py MODEL --calibration valid.txt --recipe svd-llm --recipe aa-svd-layer

Each recipe runs in a process of its own, so that its peak memory is its own. Run nothing else meanwhile.
"""

from __future__ import annotations

import multiprocessing
import warnings
from concurrent.futures import ProcessPoolExecutor
from time import perf_counter
from typing import Annotated

import torch
import typer

import eckart
from eckart.calibration import Calibration, calibrate
from eckart.device import host_memory, peak_host_memory
from eckart.estimate import Estimate
from eckart.plan import Plan


def forward_seconds(model: str, calibration: Calibration) -> float:
    """Return the seconds of one forward pass of the whole model in float32 over all calibration tokens."""
    dense = eckart.load_model(model, dtype=torch.float32)
    batches = list(calibration.batches())
    with torch.no_grad():
        dense(batches[0], use_cache=False)  # not counted: the first call allocates
        start = perf_counter()
        for batch in batches:
            dense(batch, use_cache=False)
        return perf_counter() - start


def measure_forward(model: str, source: str, samples: int, length: int) -> float:
    return forward_seconds(model, _calibration(model, source, samples, length))


class Listener(eckart.Observer):
    """Keeps the estimate that a run starts with."""

    def __init__(self, expected: list[Estimate]) -> None:
        self.expected = expected

    def on_start(self, plan: Plan, cost: Estimate, finished: int) -> None:
        self.expected.append(cost)


def measure(model: str, recipe: str, keep: float, source: str, samples: int, length: int) -> dict[str, float]:
    """Compress once, and return seconds and bytes."""
    warnings.simplefilter("ignore")
    expected: list[Estimate] = []
    tokens = _calibration(model, source, samples, length).tokens
    candidate = eckart.load_model(model)
    loaded = host_memory()
    report = eckart.compress(candidate, recipe, keep, tokens, observer=Listener(expected))
    return {
        "statistics": report.timings.statistics,
        "factorisation": report.timings.factorisation,
        "total": report.timings.total,
        "expected_seconds": expected[0].seconds,
        "loaded_bytes": loaded,
        "peak_bytes": peak_host_memory(),
        "expected_bytes": expected[0].host_bytes,
        "float32_bytes": 4 * report.parameters,
    }


def _calibration(model: str, source: str, samples: int, length: int) -> Calibration:
    return calibrate(source, samples=samples, length=length, seed=0, tokenizer=eckart.load_tokenizer(model))


def main(
    model: Annotated[str, typer.Argument(help="Local folder, hub id or .gguf file.")],
    calibration: Annotated[str, typer.Option(help="Text to calibrate on.")],
    recipe: Annotated[list[str], typer.Option(help="Recipe; may be repeated.")],
    keep: float = 0.8,
    samples: int = 16,
    length: int = 1024,
) -> None:
    """Print one row a recipe."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as pool:
        forward = pool.submit(measure_forward, model, calibration, samples, length).result()
        print(f"One forward pass of {samples} x {length} tokens in float32: {forward:.1f} s\n")
        print(
            "| recipe | statistics | in forward passes | factorisation | expected / real time | peak memory "
            "| of which loaded | in float32 models | expected |"
        )
        print("|---|---|---|---|---|---|---|---|---|")
        for name in recipe:
            row = pool.submit(measure, model, name, keep, calibration, samples, length).result()
            print(
                f"| {name} | {row['statistics']:.1f} s | {row['statistics'] / forward:.2f} "
                f"| {row['factorisation']:.1f} s | {row['expected_seconds']:.0f} / {row['total']:.0f} s "
                f"| {row['peak_bytes'] / 1e6:.0f} MB | {row['loaded_bytes'] / 1e6:.0f} MB "
                f"| {row['peak_bytes'] / row['float32_bytes']:.2f} | {row['expected_bytes'] / 1e6:.0f} MB |",
                flush=True,
            )


if __name__ == "__main__":
    typer.run(main)
