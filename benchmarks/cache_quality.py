"""Measures what caches lose at how many bytes a token: latents, fewer values, and quantised ones.

    python benchmarks/cache_quality.py MODEL --data DATA --output benchmarks/cache_quality.jsonl

Only the layers that give keys and values are factored (LAYERS, globs), at ranks that keep a share of the cache; all
other weights stay. Fewer values are chosen together with the projection behind attention (VALUES, globs), by
`pairs=narrow`; keys and all other weights stay. Windows are read in pieces from a cache that is really in use. Bytes
are those of the last cache, with numbers of 16 bits. ``eckart eval --cache`` measures the same of one model.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated

import torch
import typer
from harness import Rows, Texts, table
from leaderboard import CALIBRATION, CHOOSING, LENGTH, REPORTED
from measurement_cache import remembering
from transformers import PreTrainedModel

import eckart
from eckart.compression.plan import make_plan
from eckart.data.calibration import calibrate
from eckart.errors import EckartError
from eckart.evaluate.caches import CacheKind, cache_bytes
from eckart.evaluate.pieces import PieceReader
from eckart.layers import weight_matrix
from eckart.methods.recipe import Recipe
from eckart.methods.recipes.loader import load_recipe
from eckart.methods.sensitivity.measure import measure_all
from eckart.methods.targets import overrides_for
from eckart.sweep.build import build
from eckart.sweep.statistics import collect

NUMBER_BYTES = 2  # of a number that is no code, on a machine that computes in 16 bits
QUANTISED = ("quanto:4", "quanto:2", "latent:8", "latent:4", "latent:3")
LATENT_BITS = (16, 8, 4)
NARROW = ("structure=two-factor", "pairs=narrow", "pairs.units=none", "pairs.keys=none")


def main(
    model: Annotated[str, typer.Argument(help="Local folder, hub id or .gguf file.")],
    data: Annotated[Path, typer.Option(help="Folder of the texts.")],
    output: Annotated[Path, typer.Option(help="Append the JSON lines to this file; what is in it is not repeated.")],
    layers: Annotated[str, typer.Option(help="Glob of the layers that give keys and values.")] = "*.[kv]_proj",
    values: Annotated[str, typer.Option(help="Of those that give values and project them.")] = "*.[vo]_proj",
    recipe: Annotated[str, typer.Option(help="Recipe that these are factored by.")] = "eckart-fast",
    share: Annotated[list[float], typer.Option(help="Of the cache; may be repeated.")] = [0.5, 0.25, 0.125],  # noqa: B006
    samples: int = 16,
    seed: int = 0,
    windows: int = 12,
    length: Annotated[int, typer.Option(help="Tokens in a sample and in a window.")] = LENGTH,
    piece: Annotated[int, typer.Option(help="Tokens that a model is handed at once.")] = 64,
    cache: Annotated[Path | None, typer.Option(help="Folder to keep statistics in, for later runs.")] = None,
    choose: Annotated[
        bool, typer.Option("--choose", help="Measure on the texts that constants are chosen on.")
    ] = False,
) -> None:
    """Print bytes a token and perplexities of each cache."""
    warnings.simplefilter("ignore")
    tokenizer, dense = eckart.load_tokenizer(model), eckart.load_model(model, dtype=torch.float32)
    assert tokenizer is not None, f"{model} has no tokenizer"
    texts = Texts([str(data / name) for name in (CHOOSING if choose else REPORTED)], tokenizer, windows, length)
    here = {"samples": samples, "seed": seed, "texts": sorted(texts.tokens), "windows": windows, "piece": piece}
    rows = Rows(output, ("model", "recipe", "share", "cache", *here))
    name = Path(model).name

    def add(measured: PreTrainedModel, made_by: str, part: float, kind: str) -> None:
        if (name, made_by, part, kind, *here.values()) in rows:
            return
        used = CacheKind.parse(kind)
        found = {
            text: eckart.perplexity(measured, ids, length=length, windows=windows, cache=used, piece=piece)
            for text, ids in texts.tokens.items()
        }
        reader = PieceReader(measured, used, piece)
        with torch.no_grad():
            reader(measured, next(iter(texts.tokens.values()))[None, :length])
        rows.add(
            {
                "model": name,
                "recipe": made_by,
                "share": part,
                "cache": kind,
                **here,
                "token_bytes": cache_bytes(reader.cache, NUMBER_BYTES) / length,
                "log_perplexity": {text: each.log_perplexity for text, each in found.items()},
            }
        )

    add(dense, "dense", 1.0, "dense")
    whole = next(row for row in rows.rows if row["model"] == name and row["cache"] == "dense")["token_bytes"]
    for kind in (*QUANTISED, *(f"window:{round(part * length)}" for part in share)):
        try:
            add(dense, "dense", 1.0, kind)
        except EckartError as error:  # a package that is not installed, say
            print(f"{kind}: {error}", flush=True)
    source = " + ".join(str(data / text) for text in CALIBRATION)
    tokens = calibrate(source, samples=samples, length=length, seed=seed, tokenizer=tokenizer, model=dense)
    overrides = ["structure=two-factor", "allocation.multiple=1", *overrides_for([layers], [])]
    chosen = load_recipe(recipe, overrides, 0.5)
    measure = measure_all if cache is None else remembering(cache)
    keeps = {part: weight_share(dense, chosen, part) for part in share}
    statistics = collect(dense, {chosen: list(keeps.values())}, tokens, torch.device("cpu"), measure=measure)
    for part, keep in keeps.items():
        made = build(dense, chosen, keep, statistics).model
        for bits in LATENT_BITS:
            add(made, recipe, part, f"latent:{bits}")
    narrow = load_recipe("svd-llm", [*NARROW, *overrides_for([values], [])], 0.5)
    moments = collect(dense, {narrow: share}, tokens, torch.device("cpu"), measure=measure)
    for part in share:
        try:
            made = build(dense, narrow, part, moments).model
        except EckartError as error:  # heads of few values, say
            print(f"narrow values, {part:g}: {error}", flush=True)
            continue
        for bits in LATENT_BITS:
            add(made, "narrow values", part, f"latent:{bits}")
    known = [row for row in rows.rows if row["model"] == name and all(row[key] == here[key] for key in here)]
    first = next(row for row in known if row["recipe"] == "dense" and row["cache"] == "dense")
    for row in known:
        row["of the cache"] = row["token_bytes"] / whole
    columns = {"recipe": "s", "cache": "s", "share": "g", "token_bytes": ",.0f", "of the cache": ".3f"}
    print(table(known, columns, first["log_perplexity"]))


def weight_share(model: PreTrainedModel, recipe: Recipe, share: float) -> float:
    """Return the share of the bytes of layers at which their ranks sum to a share of their outputs."""
    kept = dense = 0.0
    for path in make_plan(model, recipe, 0.5).ranks:
        outputs, inputs = weight_matrix(model.get_submodule(path)).shape
        kept += share * outputs * (outputs + inputs)
        dense += outputs * inputs
    return kept / dense


if __name__ == "__main__":
    typer.run(main)
