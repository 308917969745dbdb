"""Measures recipes on models that are no plain decoders: one that sees, a mixture of experts, an encoder.

    python benchmarks/any_transformer.py --output rows.jsonl
    python benchmarks/any_transformer.py --output rows.jsonl --model vision-language --recipe svd-llm --keep 0.6

Models are trained where they were not before (see ``train_small.py``). Calibration is on what they were trained on.
What is in OUTPUT is not measured again, so that a run can be stopped at any time. Prints a Markdown table.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import typer
from harness import Rows
from small_models.cache import VARIABLE
from small_models.subjects import SUBJECTS, Subject

import eckart
from eckart.errors import EckartError
from eckart.sweep.case import DENSE, recipe_of

RECIPES = ("svd-llm", "aa-svd", "saes-svd", "zs-svd", "eckart-fast", "eckart")
SIZES = (0.8, 0.6, 0.4)
KEY = ("model", "part", "recipe", "keep", "on", "samples", "seed", "quick")
Row = Mapping[str, Any]


def main(
    output: Annotated[Path, typer.Option(help="Append the JSON lines to this file; what is in it is not repeated.")],
    model: Annotated[list[str], typer.Option(help=f"{', '.join(SUBJECTS)}; may be repeated.  [default: all]")] = [],  # noqa: B006
    part: Annotated[
        list[str],
        typer.Option(help="Of what sees: language, vision or both; may be repeated.  [default: all]"),
    ] = [],  # noqa: B006
    recipe: Annotated[
        list[str], typer.Option(help="Recipe with +key=value overrides; may be repeated.  [default: all]")
    ] = list(RECIPES),  # noqa: B006
    keep: Annotated[list[float], typer.Option(help="Share of bytes; may be repeated.")] = list(SIZES),  # noqa: B006
    samples: Annotated[int | None, typer.Option(help="Of calibration.  [default: as many as suit the model]")] = None,
    seed: Annotated[int, typer.Option(help="Of calibration.")] = 0,
    choose: Annotated[bool, typer.Option("--choose", help="Measure on what constants are chosen on.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Smaller models, in two minutes each: for tests.")] = False,
    cache: Annotated[Path | None, typer.Option(help=f"Folder of the models.  [default: ${VARIABLE}]")] = None,
) -> None:
    """Measure dense models, and each recipe at each size on each part of them."""
    warnings.simplefilter("ignore")
    rows = Rows(output, KEY)
    on = "validation" if choose else "test"
    models = model or list(SUBJECTS)
    for name in models:
        subject = SUBJECTS[name](quick=quick, cache=cache)
        wanted = [chosen for chosen in part or subject.parts if chosen in subject.parts] or list(subject.parts)
        fixed = {"on": on, "samples": samples or subject.samples, "seed": seed, "quick": quick}
        measure(subject, wanted, recipe, keep, fixed, rows)
    found = [row for row in rows.rows if row["on"] == on and row["quick"] == quick and row["seed"] == seed]
    for name in models:
        print(f"\n{table([row for row in found if row['model'] == name], SUBJECTS[name].score)}")


def measure(
    subject: Subject,
    parts: Iterable[str],
    recipes: Sequence[str],
    sizes: Sequence[float],
    fixed: Mapping[str, Any],
    rows: Rows,
) -> None:
    """Add the rows that are missing, of the dense model and of each recipe at each size on each part.

    Args:
        subject: the model and its task.
        parts: names of :attr:`Subject.parts`.
        recipes: with ``+key=value`` overrides appended.
        sizes: shares of bytes to keep.
        fixed: ``on``, ``samples``, ``seed`` and ``quick``, which are the same in all rows.
        rows: to add to.
    """

    def add(part: str, recipe: str, keep: float, scores: Mapping[str, float], **facts: object) -> None:
        rows.add(
            {"model": subject.name, "part": part, "recipe": recipe, "keep": keep, **fixed, "scores": scores} | facts
        )

    here = tuple(fixed[name] for name in KEY[4:])
    if (subject.name, "all", DENSE, 1.0, *here) not in rows:
        add("all", DENSE, 1.0, subject.quality(subject.load(), fixed["on"]), kept=1.0, kept_whole=1.0, seconds=0.0)
    calibration = subject.calibration(fixed["samples"], fixed["seed"])
    for part in parts:
        for label in recipes:
            for share in sizes:
                if (subject.name, part, label, share, *here) in rows:
                    continue
                compressed, chosen = subject.load(), recipe_of(label, share)
                start = perf_counter()
                try:
                    result = eckart.compress(compressed, chosen, share, calibration, only=subject.parts[part])
                except EckartError as error:
                    print(f"{subject.name}, {part}, {label} at {share:g}: {error}", flush=True)
                    continue
                seconds = round(perf_counter() - start, 1)
                facts = {"kept": round(result.keep, 4), "kept_whole": round(result.keep_whole_model, 4)}
                add(part, label, share, subject.quality(compressed, fixed["on"]), **facts, seconds=seconds)


def table(rows: Sequence[Row], score: str) -> str:
    """Return the rows of one model as Markdown: a row for each part and recipe, the score at each size.

    Args:
        rows: of one model, its dense one among them.
        score: the one to show first; the others are not shown.
    """
    sizes = sorted({row["keep"] for row in rows if row["recipe"] != DENSE}, reverse=True)
    dense = next(row for row in rows if row["recipe"] == DENSE)
    scores = {(row["part"], row["recipe"], row["keep"]): row["scores"][score] for row in rows}
    lines = [f"| {dense['model']} | recipe | {' | '.join(f'{size:g}' for size in sizes)} |"]
    lines.append("|---|---|" + "---|" * len(sizes))
    lines.append("| " + " | ".join([score, DENSE, *(f"{dense['scores'][score]:.3f}" for _ in sizes)]) + " |")
    for part, recipe in dict.fromkeys((row["part"], row["recipe"]) for row in rows if row["recipe"] != DENSE):
        found = (scores.get((part, recipe, size)) for size in sizes)
        cells = ["" if value is None else f"{value:.3f}" for value in found]
        lines.append(f"| {' | '.join([part, recipe, *cells])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
