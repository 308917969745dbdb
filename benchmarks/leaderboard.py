"""Measures all recipes, published ones and our own, by one protocol on one model, and prints who leads.

    python benchmarks/leaderboard.py MODEL --data DATA --output benchmarks/leaderboard.jsonl

What is in OUTPUT is not measured again, so that a run can be stopped at any time. The statistics that recipes share
are collected once, and kept in CACHE for the next run.
"""

from __future__ import annotations

import copy
import hashlib
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Annotated

import typer
from harness import CPU, Rows, Texts, table
from transformers import PreTrainedModel

import eckart
from eckart.blocks import find_blocks
from eckart.calibration import Calibration, calibrate
from eckart.evaluate.harness import load_tasks
from eckart.evaluate.tasks import zero_shot
from eckart.plan import shapes_of
from eckart.profiling.measure import Profile
from eckart.profiling.request import Request
from eckart.recipe import Recipe
from eckart.sweep.build import build
from eckart.sweep.case import recipe_of, request_for
from eckart.sweep.runner import digest_of
from eckart.sweep.statistics import Statistics, collect

CALIBRATION = ("wikitext2.train-head.txt", "c4.calib.jsonl")
SAMPLES, LENGTH = 16, 1024
CHOOSING = ("wikitext2.valid.txt", "ptb.valid.txt:lines")  # constants are chosen on these
REPORTED = ("wikitext2.test.txt", "ptb.test.txt:lines", "c4.eval.jsonl")
TASKS = ("arc_easy_local", "piqa_local", "hellaswag_local", "winogrande_local", "openbookqa_local")
SIZES = (0.8, 0.6, 0.4, 0.3)

# As published, but for what depends on the number of tokens: AA-SVD takes 32 of 256 sequences a step, which is 2 of 16;
# zero-sum stages, searches and trained positions look at as much as there is, or at what their defaults say.
REFINED = "refinement.batch=2"
PUBLISHED = (
    "svd-llm",
    "io-svd",
    "zs-svd",
    "saes-svd",
    f"aa-svd+{REFINED}",
    "dobi-shift",
    "svd-llm-v2",
    "aa-svd-layer",
    f"aa-svd-anchored+{REFINED}",
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
    seed: int = 0,
    windows: int = 12,
    choose: Annotated[
        bool, typer.Option("--choose", help="Measure on the texts that constants are chosen on.")
    ] = False,
    tasks: Annotated[Path | None, typer.Option(help="Folder of task definitions: run the zero-shot tasks too.")] = None,
    limit: Annotated[int, typer.Option(help="Documents of each task.")] = 100,
    cache: Annotated[Path | None, typer.Option(help="Folder for statistics; None to collect them anew.")] = None,
) -> None:
    """Measure perplexity of the dense model and of each recipe at each size."""
    warnings.simplefilter("ignore")
    tokenizer = eckart.load_tokenizer(model)
    assert tokenizer is not None, f"{model} has no tokenizer"
    dense = eckart.load_model(model)
    texts = Texts([str(data / name) for name in (CHOOSING if choose else REPORTED)], tokenizer, windows, LENGTH)
    rows = Rows(output, ("model", "recipe", "keep", "seed", "texts", "tasks"))
    name, measured = Path(model).name, (sorted(texts.tokens), 0 if tasks is None else limit)

    asked = TASKS if tasks is None else load_tasks(TASKS, path=tasks)

    def add(label: str, share: float, made: PreTrainedModel, **facts: object) -> None:
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
                "seed": seed,
                "texts": measured[0],
                "tasks": measured[1],
                "log_perplexity": losses,
                "accuracy": scores,
                **facts,
            }
        )

    if (name, "dense", 1.0, seed, *measured) not in rows:
        add("dense", 1.0, copy.deepcopy(dense), kept=1.0, seconds=0.0)
    source = " + ".join(str(data / text) for text in CALIBRATION)
    tokens = calibrate(source, samples=SAMPLES, length=LENGTH, seed=seed, tokenizer=tokenizer)
    wanted = {
        (label, share): recipe_of(label, share)
        for label in recipe or [*PUBLISHED, *OURS, *FEW_BITS]
        for share in keep
        if (name, label, share, seed, *measured) not in rows
    }
    statistics = collect_or_load(dense, wanted, tokens, cache)
    for (label, share), chosen in wanted.items():
        start = perf_counter()
        made = build(dense, chosen, share, statistics)
        add(label, share, made.model, kept=made.kept, seconds=perf_counter() - start)
    here = [row for row in rows.rows if (row["model"], row["texts"], row["seed"]) == (name, measured[0], seed)]
    first = next(row for row in here if row["recipe"] == "dense")["log_perplexity"]
    here.sort(key=lambda row: (-row["keep"], sum(row["log_perplexity"].values())))
    print(table(here, {"recipe": "s", "keep": "g", "kept": ".4f", "seconds": ".0f"}, first))


def collect_or_load(
    dense: PreTrainedModel, wanted: Mapping[tuple[str, float], Recipe], tokens: Calibration, cache: Path | None
) -> Statistics:
    """Return the statistics of recipes; what the cache lacks is collected at once for all of them, and added to it."""
    sizes: dict[Recipe, list[float]] = {}
    for (_, share), chosen in wanted.items():
        sizes.setdefault(chosen, []).append(share)
    shapes = shapes_of(find_blocks(dense))
    asked = {chosen: request_for(chosen, shares, shapes) for chosen, shares in sizes.items()}
    held = _Cache(cache, f"{digest_of(dense)[:16]}-{tokens.record.sha256[:16]}")
    known = {chosen: found for chosen, request in asked.items() if request and (found := held.find(request))}
    statistics = collect(dense, {r: shares for r, shares in sizes.items() if r not in known}, tokens, CPU)
    for request, profile in statistics.profiles.items():
        held.add(request, profile)
    for chosen, request in known.items():
        statistics.requests[chosen] = request
        if request not in statistics.profiles:
            statistics.profiles[request] = held.load(request)
    return statistics


class _Cache:
    """What was measured on one model and one set of tokens: files that say what was asked for, and what was found."""

    def __init__(self, folder: Path | None, name: str) -> None:
        self.folder, self.name = folder, name

    def find(self, request: Request) -> Request | None:
        """Return what was measured that holds all that ``request`` asks for."""
        for file in self.folder.glob(f"{self.name}-*.request") if self.folder else []:
            known: Request = pickle.loads(file.read_bytes())
            if known.merged(request) == known:
                return known
        return None

    def load(self, request: Request) -> Profile:
        found: Profile = pickle.loads(self._file(request).with_suffix(".profile").read_bytes())
        return found

    def add(self, request: Request, profile: Profile) -> None:
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file(request).with_suffix(".profile").write_bytes(pickle.dumps(profile))
            self._file(request).write_bytes(pickle.dumps(request))

    def _file(self, request: Request) -> Path:
        assert self.folder is not None
        return self.folder / f"{self.name}-{hashlib.sha256(repr(request).encode()).hexdigest()[:16]}.request"


if __name__ == "__main__":
    typer.run(main)
