"""Measures what allocators cost in quality, with the statistics collected once, on one model and several texts.

    python benchmarks/allocators.py MODEL --calibration train.txt --text test.txt --allocation curvature --keep 0.8

Prints one JSON line a measurement, and a Markdown table at the end.
"""

from __future__ import annotations

import copy
import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import reduce
from operator import or_
from pathlib import Path
from time import perf_counter
from typing import Annotated

import torch
import typer
from torch import Tensor
from transformers import PreTrainedModel

import eckart
from eckart.allocate import search_trials
from eckart.allocation import Evidence, Learned, LinearEvidence, Search, ZeroSum
from eckart.calibration import Calibration, calibrate, tokenize
from eckart.layers import LowRankLinear, weight_matrix
from eckart.lowrank import Solution, truncate
from eckart.metric import Fisher
from eckart.objectives import Streams
from eckart.placement import ResidentWeights
from eckart.plan import make_plan
from eckart.profiling.measure import Profile, Request, measure
from eckart.profiling.original import OriginalModel
from eckart.profiling.positions import train_positions
from eckart.recipe import Recipe, load_recipe
from eckart.spool import Workspace
from eckart.text import read_text
from eckart.walk import compress_blocks

CPU = torch.device("cpu")


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
    """Measure perplexity of the dense model and of each allocation at each size."""
    warnings.simplefilter("ignore")
    tokenizer = eckart.load_tokenizer(model)
    assert tokenizer is not None, f"{model} has no tokenizer"
    dense = eckart.load_model(model)
    texts = {Path(name).name: tokenize(read_text(name), tokenizer) for name in text}

    def perplexities(candidate: PreTrainedModel) -> dict[str, float]:
        return {
            name: eckart.perplexity(candidate, ids, length=window_length, windows=windows).log_perplexity
            for name, ids in texts.items()
        }

    def emit(row: dict[str, object]) -> None:
        rows.append(row)
        print(json.dumps(row), flush=True)
        if output is not None:
            with output.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

    rows: list[dict[str, object]] = []
    baseline = perplexities(dense)
    emit({"objective": objective, "allocation": "dense", "log_perplexity": baseline})
    recipes = {name: _recipe(objective, name) for name in allocation}
    for number in seed:
        tokens = calibrate(calibration, samples=samples, length=length, seed=number, tokenizer=tokenizer)
        start = perf_counter()
        original, profile = _profile(dense, list(recipes.values()), tokens)
        shared = perf_counter() - start
        for name, recipe in recipes.items():
            for share in keep:
                start = perf_counter()
                linears = _own_evidence(original, profile, recipe, share)
                ranks = recipe.allocation.ranks(linears, share, recipe.structure)
                allocated = perf_counter() - start
                start = perf_counter()
                candidate = _compressed(dense, recipe, share, ranks, profile, tokens)
                row = {
                    "objective": objective,
                    "allocation": name,
                    "keep": share,
                    "seed": number,
                    "kept": sum(recipe.structure.bytes(*e.shape, ranks[e.path]) for e in linears)
                    / sum(2 * math.prod(e.shape) for e in linears),
                    "dense_linears": sum(rank is None for rank in ranks.values()),
                    "shared_seconds": shared,
                    "allocation_seconds": allocated,
                    "compression_seconds": perf_counter() - start,
                }
                emit({**row, "log_perplexity": perplexities(candidate)})
    print(_table(rows, baseline))


def _recipe(objective: str, allocation: str) -> Recipe:
    base, *numbers = objective.split("+")
    name, *others = allocation.split("+")
    overrides = [f"objective={base}", *(f"objective.{number}" for number in numbers), f"allocation={name}"]
    return load_recipe("svd-llm", [*overrides, *(f"allocation.{other}" for other in others)])


def _profile(model: PreTrainedModel, recipes: list[Recipe], tokens: Calibration) -> tuple[OriginalModel, Profile]:
    """Measure at once what all allocations ask for."""
    objective = recipes[0].objective
    plan = make_plan(model, recipes[0], 0.5)
    original = OriginalModel(model, plan.blocks, ResidentWeights(), CPU, Workspace(), tokens)
    samples = [r.allocation.gradient_samples for r in recipes if isinstance(r.allocation, ZeroSum)]
    evidence = reduce(or_, (recipe.allocation.evidence for recipe in recipes)) | Evidence.SPECTRUM
    needs_gradients = Evidence.CURVATURE in evidence or objective.output_metric is not None
    request = Request(
        objective,
        evidence & ~(Evidence.TRIALS | Evidence.POSITION),
        (objective.output_metric or Fisher()) if needs_gradients else None,
        samples[0] if samples else None,
        keep_bases=True,
    )
    return original, measure(original, request, lambda done, total: None)


def _own_evidence(original: OriginalModel, profile: Profile, recipe: Recipe, keep: float) -> tuple[LinearEvidence, ...]:
    """Measure what only this allocation asks for."""
    allocation = recipe.allocation
    if isinstance(allocation, Search):
        return search_trials(original, recipe, profile, lambda done, total: None)
    if isinstance(allocation, Learned):
        sample = original.cropped(allocation.training_samples, allocation.training_length)
        positions = train_positions(sample, allocation, keep, recipe.structure, lambda done, total: None)
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


def _table(rows: list[dict[str, object]], baseline: dict[str, float]) -> str:
    lines = [
        "| allocation | keep | seed | dense linears | " + " | ".join(f"{n} | excess" for n in baseline) + " | s |",
        "|---|---|---|---|" + "---|---|" * len(baseline) + "---|",
    ]
    for row in rows:
        losses = row["log_perplexity"]
        assert isinstance(losses, dict)
        cells = " | ".join(f"{math.exp(losses[n]):.1f} | {losses[n] - baseline[n]:.3f}" for n in baseline)
        first = " | ".join(str(row.get(key, "")) for key in ("allocation", "keep", "seed", "dense_linears"))
        seconds = row.get("allocation_seconds", 0.0)
        assert isinstance(seconds, float)
        lines.append(f"| {first} | {cells} | {seconds:.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
