"""Measures what allocators cost in quality, with the statistics collected once, on one model and several texts.

    python benchmarks/allocators.py MODEL --calibration train.txt --text test.txt --allocation curvature --keep 0.8

Prints one JSON line a measurement, and a Markdown table at the end.
"""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import typer
from harness import CPU, Rows, Texts, profile_once, table
from torch import Tensor
from transformers import PreTrainedModel

import eckart
from eckart.allocate import search_trials
from eckart.allocation import Learned, LinearEvidence, Search
from eckart.calibration import Calibration, calibrate
from eckart.layers import LowRankLinear, weight_matrix
from eckart.layout import dense_bytes
from eckart.lowrank import Solution, truncate
from eckart.objectives import Streams
from eckart.plan import make_plan
from eckart.profiling.measure import Profile
from eckart.profiling.original import OriginalModel
from eckart.profiling.positions import train_positions
from eckart.recipe import Recipe
from eckart.recipe_loader import load_recipe
from eckart.walk import compress_blocks


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
        start = perf_counter()
        original, profile = profile_once(dense, list(recipes.values()), tokens)
        shared = perf_counter() - start
        # All that is timed comes before the first evaluation.
        chosen = list(_allocations(original, profile, recipes, wanted))
        for name, share, ranks, allocated in chosen:
            start = perf_counter()
            candidate = _compressed(dense, recipes[name], share, ranks, profile, tokens)
            compressed = perf_counter() - start
            layout = recipes[name].layout
            kept = sum(layout.bytes(*linear.shape, ranks[linear.path]) for linear in profile.linears)
            whole = sum(dense_bytes(*linear.shape) for linear in profile.linears)
            left_dense = sum(rank is None for rank in ranks.values())
            losses = texts.log_perplexities(candidate)
            seconds = {"shared_seconds": shared, "allocation_seconds": allocated, "compression_seconds": compressed}
            rows.add(_row(objective, name, share, number, kept / whole, left_dense, losses, **seconds))
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
    original: OriginalModel, profile: Profile, recipes: Mapping[str, Recipe], wanted: list[tuple[str, float]]
) -> Iterator[tuple[str, float, Mapping[str, int | None], float]]:
    """Yield allocation, size, ranks, and the seconds of what only that allocation needs."""
    trials: dict[str, tuple[tuple[LinearEvidence, ...], float]] = {}  # the same for all sizes
    for name, share in wanted:
        recipe = recipes[name]
        start = perf_counter()
        linears, earlier = trials.get(name) or (_own_evidence(original, profile, recipe, share), 0.0)
        ranks = recipe.allocation.ranks(linears, share, recipe.layout)
        seconds = perf_counter() - start + earlier
        if isinstance(recipe.allocation, Search):
            trials.setdefault(name, (linears, seconds))
        print(f"{name} at {share:g}: ranks after {seconds:.1f} s", file=sys.stderr, flush=True)
        yield name, share, ranks, seconds


def _recipe(objective: str, allocation: str) -> Recipe:
    base, *numbers = objective.split("+")
    name, *others = allocation.split("+")
    overrides = [f"objective={base}", *(f"objective.{number}" for number in numbers), f"allocation={name}"]
    return load_recipe("svd-llm", [*overrides, *(f"allocation.{other}" for other in others)])


def _own_evidence(original: OriginalModel, profile: Profile, recipe: Recipe, keep: float) -> tuple[LinearEvidence, ...]:
    """Measure what only this allocation asks for."""
    allocation = recipe.allocation
    if isinstance(allocation, Search):
        return search_trials(original, recipe, profile, lambda done, total: None)
    if isinstance(allocation, Learned):
        sample = original.cropped(allocation.training_samples, allocation.training_length)
        positions = train_positions(sample, allocation, keep, recipe.layout, lambda done, total: None)
        return tuple(replace(linear, position=positions[linear.path]) for linear in profile.linears)
    return profile.linears


def _compressed(
    dense: PreTrainedModel,
    recipe: Recipe,
    keep: float,
    ranks: Mapping[str, int | None],
    profile: Profile,
    tokens: Calibration,
) -> PreTrainedModel:
    """Return a compressed copy: from the bases at hand where the objective looks at the original model only."""
    candidate = copy.deepcopy(dense)
    if recipe.objective.streams is not Streams.ORIGINAL:
        plan = replace(make_plan(candidate, recipe, keep), ranks=dict(ranks))
        compress_blocks(candidate, recipe, plan, tokens, device=CPU, metrics=profile.metrics)
        return candidate
    for path, rank in ranks.items():
        if rank is not None:
            linear = candidate.get_submodule(path)
            weight = weight_matrix(linear).detach().double()
            basis, dual = (tensor.double() for tensor in profile.solutions[path])
            second, first = truncate(Solution(basis, dual, Tensor(), weight), rank)
            candidate.set_submodule(path, LowRankLinear.from_factors(linear, second, first))
    return candidate


if __name__ == "__main__":
    typer.run(main)
