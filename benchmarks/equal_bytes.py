"""Measures recipes at equal bytes: structures, shared bases, precisions, hybrids, and mixtures of them.

    python benchmarks/equal_bytes.py MODEL --output rows.jsonl --calibration train.txt --text test.txt \\
        --recipe io-svd@0.8,0.5 --recipe io-svd+structure=pivoted@0.5

Statistics are collected once for all recipes that can share them. Prints one JSON line a measurement, and a Markdown
table at the end. With ``--speed`` it does not compress: it gives the model of each row in OUTPUT layers of its ranks,
and measures how fast they decode on this machine.
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

import typer
from harness import CPU, Rows, Texts, table
from transformers import PreTrainedModel

import eckart
from eckart.blocks.discovery import find_blocks
from eckart.blocks.fuse import fusable, fuse
from eckart.blocks.onload import ResidentWeights
from eckart.data.calibration import calibrate
from eckart.evaluate.speed.compare import random_prompt
from eckart.evaluate.speed.passes import Timed, run_once
from eckart.methods.recipe import Recipe
from eckart.methods.sharing import Shared
from eckart.sweep.build import build
from eckart.sweep.case import recipe_of
from eckart.sweep.statistics import collect

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
    for joined in (False, True):
        group = {key: chosen for key, chosen in wanted.items() if isinstance(chosen.sharing, Shared) is joined}
        if not group:
            continue
        sizes: dict[Recipe, list[float]] = {}
        for (_, share), chosen in group.items():
            sizes.setdefault(chosen, []).append(share)
        statistics = collect(dense, sizes, tokens, CPU)
        for (name, share), chosen in group.items():
            start = perf_counter()
            made = build(dense, chosen, share, statistics)
            seconds = perf_counter() - start
            size = _bytes_on_disk(made.model)
            losses = texts.log_perplexities(made.model)
            rows.add(_row(name, share, seed, made.kept, made.ranks, losses, size, seconds))
        statistics.close()
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
                fuse(model, fusable(find_blocks(model)), ResidentWeights())
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
