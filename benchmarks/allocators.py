"""Measures what allocators cost in quality, with the statistics collected once, on one model and several texts.

    python benchmarks/allocators.py MODEL --calibration train.txt --text test.txt --allocation curvature --keep 0.8

Prints one JSON line a measurement, and a Markdown table at the end.
"""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import typer
from harness import CPU, Rows, Texts, table

import eckart
from eckart.data.calibration import calibrate
from eckart.methods.allocation import Search, Storage
from eckart.methods.recipe import Recipe
from eckart.methods.recipes.loader import load_recipe
from eckart.sweep.build import build
from eckart.sweep.case import Way, way_of
from eckart.sweep.statistics import Statistics, collect


def main(
    model: Annotated[str, typer.Argument(help="Local folder or hub id.")],
    calibration: Annotated[str, typer.Option(help="Text to calibrate on.")],
    text: Annotated[list[str], typer.Option(help="Text to measure on; may be repeated.")],
    allocation: Annotated[list[str], typer.Option(help="Allocation, with +key=value appended; may be repeated.")],
    keep: Annotated[list[float], typer.Option(help="Share of bytes to keep; may be repeated.")],
    objective: Annotated[str, typer.Option(help="Objective, with +key=value appended.")] = "input-aware",
    samples: int = 16,
    length: int = 1024,
    seed: Annotated[list[int], typer.Option(help="Calibration seed; may be repeated.")] = [0],  # noqa: B006
    windows: int = 20,
    window_length: int = 1024,
    output: Annotated[Path | None, typer.Option(help="Append the JSON lines to this file.")] = None,
) -> None:
    """Measure perplexity of the dense model and of each allocation at each size; what is in OUTPUT is not repeated."""
    warnings.simplefilter("ignore")
    tokenizer = eckart.load_tokenizer(model)
    assert tokenizer is not None, f"{model} has no tokenizer"
    dense = eckart.load_model(model)
    texts = Texts(text, tokenizer, windows, window_length)
    rows = Rows(output, ("objective", "allocation", "keep", "seed"))
    if ("", "dense", 1.0, 0) not in rows:
        rows.add(_row("", "dense", 1.0, 0, 1.0, 0, texts.log_perplexities(copy.deepcopy(dense))))
    recipes = {name: _recipe(objective, name) for name in allocation}
    for number in seed:
        wanted = [(n, share) for n in recipes for share in keep if (objective, n, share, number) not in rows]
        if not wanted:
            continue
        tokens = calibrate(calibration, samples=samples, length=length, seed=number, tokenizer=tokenizer)
        sizes = {chosen: [share for n, share in wanted if n == name] for name, chosen in recipes.items()}
        statistics = collect(dense, sizes, tokens, CPU)
        # All that is timed comes before the first evaluation.
        chosen = list(_allocations(statistics, recipes, wanted))
        for name, share, storage, allocated in chosen:
            start = perf_counter()
            made = build(dense, recipes[name], share, statistics, storage=storage)
            compressed = perf_counter() - start
            left_dense = sum(rank is None for rank in made.ranks.values())
            losses = texts.log_perplexities(made.model)
            seconds = {"shared_seconds": statistics.seconds, "allocation_seconds": allocated}
            seconds["compression_seconds"] = compressed
            rows.add(_row(objective, name, share, number, made.kept, left_dense, losses, **seconds))
        statistics.close()
    baseline = next(row["log_perplexity"] for row in rows.rows if row["allocation"] == "dense")
    columns = {"objective": "s", "allocation": "s", "keep": "g", "seed": "d", "kept": ".4f", "dense_linears": "d"}
    print(table(rows.rows, {**columns, "allocation_seconds": ".1f"}, baseline))


def _row(
    objective: str,
    allocation: str,
    keep: float,
    seed: int,
    kept: float,
    dense_linears: int,
    losses: Mapping[str, float],
    shared_seconds: float = 0.0,
    allocation_seconds: float = 0.0,
    compression_seconds: float = 0.0,
) -> dict[str, Any]:
    """Return one measurement; losses in nats a token, by text.

    The seconds are those of the measurement that all allocations share, of what only this one needs, and of making
    the factors.
    """
    return {
        "objective": objective,
        "allocation": allocation,
        "keep": keep,
        "seed": seed,
        "kept": kept,
        "dense_linears": dense_linears,
        "log_perplexity": dict(losses),
        "shared_seconds": shared_seconds,
        "allocation_seconds": allocation_seconds,
        "compression_seconds": compression_seconds,
    }


def _allocations(
    statistics: Statistics, recipes: Mapping[str, Recipe], wanted: list[tuple[str, float]]
) -> Iterator[tuple[str, float, Storage | None, float]]:
    """Yield allocation, size, how linears are stored if not made alone, and the seconds of what only it needs."""
    trials: dict[str, float] = {}  # they are the same for all sizes, and made once
    for name, share in wanted:
        recipe = recipes[name]
        start = perf_counter()
        storage = None if way_of(recipe) is Way.ALONE else statistics.storage(recipe, share)
        seconds = perf_counter() - start + trials.get(name, 0.0)
        if isinstance(recipe.allocation, Search):
            trials.setdefault(name, seconds)
        print(f"{name} at {share:g}: ranks after {seconds:.1f} s", file=sys.stderr, flush=True)
        yield name, share, storage, seconds


def _recipe(objective: str, allocation: str) -> Recipe:
    base, *numbers = objective.split("+")
    name, *others = allocation.split("+")
    overrides = [f"objective={base}", *(f"objective.{number}" for number in numbers), f"allocation={name}"]
    return load_recipe("svd-llm", [*overrides, *(f"allocation.{other}" for other in others)])


if __name__ == "__main__":
    typer.run(main)
