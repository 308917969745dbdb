"""Measures all recipes, published ones and our own, by one protocol on one model, and prints who leads.

    python benchmarks/leaderboard.py MODEL --data DATA --output benchmarks/leaderboard.jsonl

What is in OUTPUT is not measured again, so that a run can be stopped at any time. The statistics that recipes share
are collected once a run, for all recipes that are missing; with --cache later runs find them, too. With
`--protocol arena` perplexities are those of LowRankArena's protocol (`arena.py`), and rows say what it wants.
"""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from time import perf_counter
from typing import Annotated

import typer
from arena import ArenaTexts, facts
from harness import Rows, Texts, table
from measurement_cache import remembering
from transformers import PreTrainedModel

import eckart
from eckart.data.calibration import SELF, calibrate
from eckart.device import resolve_device
from eckart.errors import EckartError
from eckart.evaluate.harness import load_tasks
from eckart.evaluate.tasks import zero_shot
from eckart.methods.recipe import Recipe
from eckart.methods.sensitivity.measure import measure_all
from eckart.sweep.build import build
from eckart.sweep.case import recipe_of
from eckart.sweep.statistics import collect

CALIBRATION = ("wikitext2.train-head.txt", "c4.calib.jsonl")
LENGTH = 1024
CHOOSING = ("wikitext2.valid.txt", "ptb.valid.txt:lines")  # constants are chosen on these
REPORTED = ("wikitext2.test.txt", "ptb.test.txt:lines", "c4.eval.jsonl")
TASKS = ("arc_easy_local", "piqa_local", "hellaswag_local", "winogrande_local", "openbookqa_local")
SIZES = (0.8, 0.6, 0.4, 0.3)

# As published, but for what depends on the number of tokens. AA-SVD takes 32 of 256 sequences a step, an eighth;
# zero-sum stages, searches and trained positions look at as much as there is, or at what their defaults say.
REFINED = "refinement.batch={eighth}"
PUBLISHED = (
    "svd-llm",
    "io-svd",
    "zs-svd",
    "saes-svd",
    "aa-svd+" + REFINED,
    "dobi-shift",
    "svd-llm-v2",
    "aa-svd-layer",
    "aa-svd-anchored+" + REFINED,
    "zs-svd-staged",
    "adasvd",
    "dobi-svd+allocation.epochs=4+allocation.training_samples=8+allocation.training_length=128",
    "asvd+allocation.trial_samples=1+allocation.trial_length=512",
    "svd",
)
OURS = ("eckart", "eckart-fast")
FEW_BITS = ("int8", "int4", "gptq", "zs-svd-hq", "zs-svd-remap", "eora", "hybrid-anchored", "eckart-q")


def main(
    model: Annotated[str, typer.Argument(help="Local folder, hub id or .gguf file.")],
    data: Annotated[Path, typer.Option(help="Folder of the texts.")],
    output: Annotated[Path, typer.Option(help="Append the JSON lines to this file; what is in it is not repeated.")],
    recipe: Annotated[
        list[str], typer.Option(help="Recipe with +key=value overrides; may be repeated.  [default: all]")
    ] = [],  # noqa: B006
    keep: Annotated[list[float], typer.Option(help="Share of bytes; may be repeated.")] = list(SIZES),  # noqa: B006
    samples: Annotated[int, typer.Option(help="Of calibration, as many of each text.")] = 16,
    calibration: Annotated[
        list[str], typer.Option(help="Text of DATA, or `self` for what the model writes; may be repeated, for shares.")
    ] = list(CALIBRATION),  # noqa: B006
    seed: int = 0,
    windows: Annotated[int, typer.Option(help="Of each text that is measured on.")] = 12,
    length: Annotated[int, typer.Option(help="Tokens in a sample, and in a window of our protocol.")] = LENGTH,
    cache: Annotated[Path | None, typer.Option(help="Folder to keep statistics in, for later runs.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, or the name of an accelerator.")] = "auto",
    choose: Annotated[
        bool, typer.Option("--choose", help="Measure on the texts that constants are chosen on.")
    ] = False,
    tasks: Annotated[Path | None, typer.Option(help="Folder of task definitions: run the zero-shot tasks too.")] = None,
    limit: Annotated[int, typer.Option(help="Documents of each task.")] = 100,
    protocol: Annotated[str, typer.Option(help="Of perplexity: eckart, or arena for that of LowRankArena.")] = "eckart",
) -> None:
    """Measure perplexity of the dense model and of each recipe at each size."""
    warnings.simplefilter("ignore")
    tokenizer = eckart.load_tokenizer(model)
    assert tokenizer is not None, f"{model} has no tokenizer"
    dense = eckart.load_model(model)
    place = resolve_device(device)
    if protocol not in ("eckart", "arena"):
        raise typer.BadParameter(f"--protocol is eckart or arena; found {protocol!r}.")
    texts: Texts | ArenaTexts
    if protocol == "arena":
        texts, windows = ArenaTexts(data, tokenizer, place), 0  # all of them, of its own length
    else:
        names = [str(data / name) for name in (CHOOSING if choose else REPORTED)]
        texts = Texts(names, tokenizer, windows, length, place)
    name = Path(model).name
    evaluation = {
        "texts": sorted(texts.tokens),
        "windows": windows,
        "length": length,
        "tasks": 0 if tasks is None else limit,
    }
    here = {"calibration": calibration, "samples": samples, "seed": seed, **evaluation}
    rows = Rows(output, ("model", "recipe", "keep", *here))
    asked = TASKS if tasks is None else load_tasks(TASKS, path=tasks, trust_remote_code=True)  # of this benchmark

    def add(
        label: str, share: float, made: PreTrainedModel, kept: float, chosen: Recipe | None, seconds: float
    ) -> None:
        scores = {}
        losses = texts.log_perplexities(made)
        if tasks is not None:
            found = zero_shot(made, tokenizer, asked, limit=limit)
            scores = {score.task: score.value for score in found.scores if score.metric == "acc"}
        rows.add(
            {
                "model": name,
                "recipe": label,
                "keep": share,
                **here,
                "device": str(place),
                "log_perplexity": losses,
                "accuracy": scores,
                "kept": kept,
                "seconds": seconds,
                **(
                    {"arena": facts(texts, made, chosen, share, kept, tokens, tasks is not None)}
                    if isinstance(texts, ArenaTexts)
                    else {}
                ),
            }
        )

    source = " + ".join(text if text == SELF else str(data / text) for text in calibration)
    tokens = calibrate(source, samples=samples, length=length, seed=seed, tokenizer=tokenizer, model=dense)
    reference = {"model": name, "recipe": "dense", **evaluation}
    if not any(reference.items() <= row.items() for row in rows.rows):
        add("dense", 1.0, copy.deepcopy(dense), 1.0, None, 0.0)
    wanted = {
        (label, share): recipe_of(label, share)
        for label in recipe or [label.format(eighth=max(1, samples // 8)) for label in (*PUBLISHED, *OURS, *FEW_BITS)]
        for share in keep
        if (name, label, share, *here.values()) not in rows
    }
    sizes: dict[Recipe, list[float]] = {}
    for (_, share), chosen in wanted.items():
        sizes.setdefault(chosen, []).append(share)
    statistics = collect(dense, sizes, tokens, place, measure=measure_all if cache is None else remembering(cache))
    for (label, share), chosen in wanted.items():
        start = perf_counter()
        try:
            made = build(dense, chosen, share, statistics)
        except EckartError as error:  # a size that it does not come in, say
            print(f"{label} at {share:g}: {error}", flush=True)
            continue
        add(label, share, made.model, made.kept, chosen, perf_counter() - start)
    asked_for = {"model": name, **here}
    del asked_for["tasks"]  # perplexities are the same with and without them
    found = [row for row in rows.rows if asked_for.items() <= row.items()]
    first = next(row for row in rows.rows if reference.items() <= row.items())["log_perplexity"]
    found.sort(key=lambda row: (-row["keep"], sum(row["log_perplexity"].values())))
    print(table(found, {"recipe": "s", "keep": "g", "kept": ".4f", "seconds": ".0f"}, first))


if __name__ == "__main__":
    typer.run(main)
