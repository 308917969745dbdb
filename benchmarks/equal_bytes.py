"""Measures recipes at equal bytes: structures, shared bases, precisions, hybrids, and mixtures of them.

    python benchmarks/equal_bytes.py MODEL --output rows.jsonl --calibration train.txt --text test.txt \\
        --recipe io-svd@0.8,0.5 --recipe io-svd+structure=pivoted@0.5

Statistics are collected once for all recipes whose components are the same. Recipes must look at the original model
only. Prints one JSON line a measurement, and a Markdown table at the end. With ``--speed`` it does not compress: it
gives the model of each row in OUTPUT layers of its ranks, and measures how fast they decode on this machine.
"""

from __future__ import annotations

import copy
import json
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import torch
import typer
from harness import CPU, Rows, Texts, profile_once, recipe_of, table
from torch import Tensor
from transformers import PreTrainedModel

import eckart
from eckart.bench.compare import random_prompt
from eckart.bench.passes import Timed, run_once
from eckart.blocks import find_blocks
from eckart.calibration import Calibration, calibrate
from eckart.joining import join, joinable
from eckart.layers import Fit, weight_matrix
from eckart.layout import dense_bytes
from eckart.lowrank import Solution, Whitening, truncate
from eckart.moments import Moments
from eckart.objectives import Streams
from eckart.placement import ResidentWeights
from eckart.profiling.measure import Profile
from eckart.profiling.original import OriginalModel
from eckart.recipe import Recipe
from eckart.sharing import Shared
from eckart.spool import Workspace
from eckart.statistics import input_moments

PROMPT, DECODED = 16, 48  # tokens


def main(
    model: Annotated[str, typer.Argument(help="Local folder or hub id.")],
    output: Annotated[Path, typer.Option(help="Append the JSON lines to this file; what is in it is not repeated.")],
    calibration: Annotated[str, typer.Option(help="Text to calibrate on.")] = "python-docs",
    text: Annotated[list[str], typer.Option(help="Text to measure on; may be repeated.")] = [],  # noqa: B006
    recipe: Annotated[
        list[str],
        typer.Option(help="Recipe, +key=value overrides, @ and the shares to keep; may be repeated."),
    ] = [],  # noqa: B006
    samples: int = 16,
    length: int = 1024,
    seed: int = 0,
    windows: int = 20,
    window_length: int = 1024,
    speed: Annotated[bool, typer.Option("--speed", help="Measure decoding of the rows that are there.")] = False,
) -> None:
    """Measure perplexity, bytes and speed of each recipe at each size."""
    warnings.simplefilter("ignore")
    tokenizer = eckart.load_tokenizer(model)
    assert tokenizer is not None, f"{model} has no tokenizer"
    dense = eckart.load_model(model)
    rows = Rows(output, ("recipe", "keep", "seed"))
    if speed:
        print(_speeds(dense, rows.rows))
        return
    texts = Texts(text, tokenizer, windows, window_length)
    if ("dense", 1.0, seed) not in rows:
        losses = texts.log_perplexities(copy.deepcopy(dense))
        size = _bytes_on_disk(dense)
        rows.add(_row("dense", 1.0, seed, 1.0, {}, losses, size, 0.0))
    asked = [
        (name, float(share)) for name, _, shares in (r.partition("@") for r in recipe) for share in shares.split(",")
    ]
    wanted = {(name, share): recipe_of(name) for name, share in asked if (name, share, seed) not in rows}
    tokens = calibrate(calibration, samples=samples, length=length, seed=seed, tokenizer=tokenizer)
    moments = _moments(dense, tokens) if wanted else {}
    for group in _alike(list(wanted.items())):
        base = copy.deepcopy(dense)
        recipes = list(dict.fromkeys(chosen for _, chosen in group))
        assert recipes[0].objective.streams in (Streams.ORIGINAL, Streams.NONE), "streams of other models are not kept"
        original, profile = profile_once(base, recipes, tokens)
        for (name, share), chosen in group:
            start = perf_counter()
            ranks = chosen.allocation.ranks(profile.linears, share, chosen.layout)
            candidate = _compressed(base, chosen, ranks, profile, moments)
            seconds = perf_counter() - start
            shapes = {linear.path: linear.shape for linear in profile.linears}
            kept = sum(chosen.layout.bytes(*shapes[path], rank) for path, rank in ranks.items())
            kept_share = kept / sum(dense_bytes(*shape) for shape in shapes.values())
            size = _bytes_on_disk(candidate)
            losses = texts.log_perplexities(candidate)
            rows.add(_row(name, share, seed, kept_share, ranks, losses, size, seconds))
        del original, profile
    first = next(row for row in rows.rows if row["recipe"] == "dense")
    columns = {"recipe": "s", "keep": "g", "kept": ".4f", "megabytes": ".1f", "whole": "d"}
    print(table(rows.rows, columns, first["log_perplexity"]))


def _row(
    name: str,
    keep: float,
    seed: int,
    kept: float,
    ranks: Mapping[str, int | None],
    losses: Mapping[str, float],
    size: int,
    seconds: float,
) -> dict[str, Any]:
    return {
        "recipe": name,
        "keep": keep,
        "seed": seed,
        "kept": kept,
        "megabytes": size / 1e6,
        "whole": sum(rank is None for rank in ranks.values()),
        "log_perplexity": dict(losses),
        "seconds": seconds,
        "ranks": dict(ranks),
    }


def _alike(wanted: list[tuple[tuple[str, float], Recipe]]) -> list[list[tuple[tuple[str, float], Recipe]]]:
    """Return the recipes in groups whose components are the same."""
    groups: dict[str, list[tuple[tuple[str, float], Recipe]]] = {}
    for item in wanted:
        recipe = item[1]
        structure = recipe.structure if recipe.structure.adds_to_base else None
        groups.setdefault(repr((recipe.objective, recipe.sharing, structure)), []).append(item)
    return list(groups.values())


def _moments(model: PreTrainedModel, tokens: Calibration) -> dict[str, Moments]:
    """Return the moments of every linear's input in the original model, by path."""
    original = OriginalModel(model, find_blocks(model), ResidentWeights(), CPU, Workspace(), tokens)
    streams = original.forward()
    found: dict[str, Moments] = {}
    for index, block in enumerate(original.blocks):
        with original.weights.lend(block.module, CPU):
            groups = input_moments(block.module, block.groups, original.calls[index], streams[index], CPU)
        found |= {target.path: groups[group] for group in block.groups for target in group.targets}
    return found


def _compressed(
    base: PreTrainedModel,
    recipe: Recipe,
    ranks: Mapping[str, int | None],
    profile: Profile,
    moments: Mapping[str, Moments],
) -> PreTrainedModel:
    """Return a compressed copy, made from the bases at hand."""
    candidate, layout, objective = copy.deepcopy(base), recipe.layout, recipe.objective
    whitenings: dict[int, Whitening] = {}
    for path, rank in ranks.items():
        if not layout.changes(rank):
            continue
        linear = candidate.get_submodule(path)
        weight, stored = weight_matrix(linear).detach().double(), weight_matrix(linear).dtype
        inputs = moments[path.removesuffix(".joint")]
        if id(inputs) not in whitenings:
            whitenings = {id(inputs): objective.whitening(inputs, weight.shape[1], CPU)}
        fit = Fit(weight, whitenings[id(inputs)])
        if rank is None:
            layer: torch.nn.Module = layout.whole(linear, weight, stored, fit)
        elif layout.structure.adds_to_base:
            metric = objective.output_metric
            root = None if metric is None else metric.root(profile.metrics[path].double())
            layer = layout.fitted(linear, rank, stored, Fit(weight, fit.whitening, root))
        else:
            basis, dual = (tensor.double() for tensor in profile.solutions[path])
            second, first = truncate(Solution(basis, dual, Tensor(), weight), rank)
            layer = layout.factored(linear, second, first, stored, fit)
        candidate.set_submodule(path, layer)
    return candidate


def _bytes_on_disk(model: PreTrainedModel) -> int:
    """Return the size of the weight files of a model."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return sum(path.stat().st_size for path in Path(folder).glob("*.safetensors"))


def _speeds(dense: PreTrainedModel, rows: list[dict[str, Any]]) -> str:
    """Return a table of how many tokens a second the model of each row decodes, one sequence at a time."""
    lines = ["| recipe | keep | tokens/s | of the dense model |", "|---|---|---|---|"]
    reference = 0.0
    for row in rows:
        model = copy.deepcopy(dense)
        if row["recipe"] != "dense":
            recipe = recipe_of(row["recipe"])
            if isinstance(recipe.sharing, Shared):
                join(model, joinable(find_blocks(model)), ResidentWeights())
            for path, rank in row["ranks"].items():
                layer = recipe.layout.empty_like(model.get_submodule(path), rank)
                model.set_submodule(path, layer)
        run = min((run_once(model, random_prompt(model, 1, PROMPT), DECODED) for _ in range(3)), key=_seconds)
        speed = len(run.steps) / _seconds(run)
        reference = reference or speed
        lines.append(f"| {row['recipe']} | {row['keep']:g} | {speed:.1f} | {speed / reference:.2f} |")
        print(json.dumps({"recipe": row["recipe"], "keep": row["keep"], "tokens_per_second": speed}), flush=True)
    return "\n".join(lines)


def _seconds(run: Timed) -> float:
    return sum(run.steps)


if __name__ == "__main__":
    typer.run(main)
