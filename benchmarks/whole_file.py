"""Measures the best model within each size of the whole file, on one model by one protocol, from one collection.

    python benchmarks/whole_file.py MODEL --data DATA --output benchmarks/whole_file.jsonl --share 0.3 --share 0.2

Sizes are bytes of all files of weights, as shares of those of the model in 16 bits. What is in OUTPUT is not measured
again. ``eckart compress MODEL --size`` makes the same models one by one.
"""

from __future__ import annotations

import tempfile
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Annotated

import typer
from harness import Rows, Texts, table
from leaderboard import CALIBRATION, CHOOSING, LENGTH, REPORTED
from measurement_cache import remembering

import eckart
from eckart.blocks.onload import ResidentWeights
from eckart.compression.embedding import losses_of_tables
from eckart.compression.plan import make_plan
from eckart.data.calibration import calibrate
from eckart.device import resolve_device
from eckart.methods.allocation import Storage
from eckart.methods.precision import AnyPrecision, Bits16
from eckart.methods.sensitivity.measure import measure_all
from eckart.run.whole_size import within_size
from eckart.sweep.build import build
from eckart.sweep.case import recipe_of
from eckart.sweep.statistics import Statistics, collect

SHARES = (0.6, 0.5, 0.4, 0.3, 0.25, 0.2, 0.16, 0.13)


def main(
    model: Annotated[str, typer.Argument(help="Local folder, hub id or .gguf file.")],
    data: Annotated[Path, typer.Option(help="Folder of the texts.")],
    output: Annotated[Path, typer.Option(help="Append the JSON lines to this file; what is in it is not repeated.")],
    recipe: Annotated[str, typer.Option(help="Recipe with +key=value overrides.")] = "auto",
    share: Annotated[list[float], typer.Option(help="Of the whole file; may be repeated.")] = list(SHARES),  # noqa: B006
    samples: int = 16,
    length: Annotated[int, typer.Option(help="Tokens in a sample and in a window.")] = LENGTH,
    seed: int = 0,
    windows: int = 12,
    cache: Annotated[Path | None, typer.Option(help="Folder to keep statistics in, for later runs.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, or the name of an accelerator.")] = "auto",
    choose: Annotated[
        bool, typer.Option("--choose", help="Measure on the texts that constants are chosen on.")
    ] = False,
) -> None:
    """Print perplexities of the dense model and of each size."""
    warnings.simplefilter("ignore")
    tokenizer, dense, place = eckart.load_tokenizer(model), eckart.load_model(model), resolve_device(device)
    assert tokenizer is not None, f"{model} has no tokenizer"
    texts = Texts([str(data / name) for name in (CHOOSING if choose else REPORTED)], tokenizer, windows, length, place)
    here = {"samples": samples, "seed": seed, "texts": sorted(texts.tokens), "windows": windows, "length": length}
    rows = Rows(output, ("model", "recipe", "share", *here))
    name = Path(model).name
    whole = bytes_of_files(dense)
    if (name, "dense", 1.0, *here.values()) not in rows:
        losses = texts.log_perplexities(eckart.load_model(model))
        rows.add({"model": name, "recipe": "dense", "share": 1.0, **here, "bytes": whole, "log_perplexity": losses})
    source = " + ".join(str(data / text) for text in CALIBRATION)
    tokens = calibrate(source, samples=samples, length=length, seed=seed, tokenizer=tokenizer, model=dense)
    chosen = recipe_of(recipe, share[0])
    statistics = collect(
        dense, {chosen: share}, tokens, place, measure=measure_all if cache is None else remembering(cache)
    )
    costs: dict[AnyPrecision, float] = {}
    for part in share:
        if (name, recipe, part, *here.values()) in rows:
            continue
        start = perf_counter()
        room = within_size(dense, chosen, int(part * whole), ResidentWeights(), tokens)
        choices = room.shares or ((chosen.embedding, room.keep),)
        if room.shares and not costs:
            costs = embedding_costs(statistics, [precision for precision, _ in choices])
        found = [(precision, keep, statistics.storage(chosen, keep)) for precision, keep in choices]
        precision, keep, storage = min(found, key=lambda way: predicted(way[2]) + costs.get(way[0], 0.0))
        made = build(dense, chosen, keep, statistics, storage=storage, embedding=precision)
        counts = Counter(base.name for base in storage.bases.values())
        rows.add(
            {
                "model": name,
                "recipe": recipe,
                "share": part,
                **here,
                "bytes": bytes_of_files(made.model),
                "kept": made.kept,
                "embedding": precision.name,
                "bases": dict(counts),
                "factored": sum(rank is not None for rank in storage.ranks.values()),
                "predicted": predicted(storage) + costs.get(precision, 0.0),
                "predicted_embedding": costs.get(precision),
                "log_perplexity": texts.log_perplexities(made.model),
                "seconds": perf_counter() - start,
            }
        )
    known = [row for row in rows.rows if row["model"] == name and all(row[key] == here[key] for key in here)]
    first = next(row for row in known if row["recipe"] == "dense")["log_perplexity"]
    print(table(known, {"recipe": "s", "share": "g", "bytes": ","}, first))


def predicted(storage: Storage) -> float:
    """Return the rise of the loss that an allocation expects; 0 if it expects nothing."""
    return 0.0 if storage.outlook is None else storage.outlook.loss


def embedding_costs(statistics: Statistics, precisions: list[AnyPrecision]) -> dict[AnyPrecision, float]:
    """Return what the embedding costs in each precision, in nats a token."""
    original = statistics.original
    plan = make_plan(original.model, recipe_of("svd", 0.5), 0.5)
    assert plan.vocabulary is not None
    run = replace(original, arguments={})
    return dict(zip(precisions, losses_of_tables(run, plan.vocabulary, precisions), strict=True)) | {Bits16(): 0.0}


def bytes_of_files(model: object) -> int:
    """Return the bytes of the files of weights of a model in memory, once it is written."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)  # type: ignore[attr-defined]
        return sum(path.stat().st_size for path in Path(folder).glob("*.safetensors"))


if __name__ == "__main__":
    typer.run(main)
