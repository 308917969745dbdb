"""Measures which classes of transformers Eckart compresses, on tiny random models, and writes the page of the docs.

    python benchmarks/coverage.py --output coverage.jsonl
    python benchmarks/coverage.py --output coverage.jsonl --only causal --only masked/bert
    python benchmarks/coverage.py --output coverage.jsonl --again crashed --again refused
    python benchmarks/coverage.py --output coverage.jsonl --page docs/coverage.md

Each class runs in a process of its own, with a limit of time. What is in OUTPUT is not run again, so that a run can
be stopped at any time; the last row of a class and recipe counts. All classes take about two hours on one core.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Empty
from threading import Lock
from time import monotonic
from typing import Annotated, Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import transformers
import typer
from coverage_page import OUTCOMES, latest_of, page_of
from harness import Rows
from tiny_models.classes import KINDS, Entry, entries

import eckart

KEY = ("kind", "model_type", "recipe", "transformers")
FAULTS = ("crashed", "differs")
RECIPES = ("svd-llm", "saes-svd", "eckart-fast", "zs-svd", "aa-svd")


def main(
    output: Annotated[Path, typer.Option(help="Append the JSON lines to this file; what is in it is not repeated.")],
    only: Annotated[
        list[str], typer.Option(help=f"A kind ({', '.join(KINDS)}), a config's type, or kind/type; may be repeated.")
    ] = [],  # noqa: B006
    recipe: Annotated[list[str], typer.Option(help="May be repeated.")] = list(RECIPES),  # noqa: B006
    jobs: Annotated[int, typer.Option(help="Classes at once.")] = 1,
    seconds: Annotated[int, typer.Option(help="That a class may take, all recipes together.")] = 120,
    again: Annotated[
        list[str], typer.Option(help=f"Run what OUTPUT has with this outcome anew ({', '.join(OUTCOMES)}); repeatable.")
    ] = [],  # noqa: B006
    page: Annotated[Path | None, typer.Option(help="Write what OUTPUT has as Markdown to this file.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 if a class crashed or differs.")] = False,
) -> None:
    """Run the classes that are not in OUTPUT yet, and write the page if one is asked for."""
    rows = Rows(output, KEY)
    chosen = select(entries(), only)
    unknown = set(again) - set(OUTCOMES)
    if unknown:
        raise typer.BadParameter(f"no outcome is named {', '.join(sorted(unknown))}")
    known = {key_of(row) for row in latest_of(rows.rows) if row["outcome"] not in again}
    lock = Lock()

    def run(entry: Entry) -> None:
        missing = [name for name in recipe if not is_known(known, entry, name)]
        found = run_apart(entry, missing, seconds) if missing else []
        with lock:
            for row in found:
                rows.add(row)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(run, chosen))
    if page is not None:
        page.write_text(page_of(rows.rows), encoding="utf-8")
    if check and any(row["outcome"] in FAULTS for row in latest_of(rows.rows)):
        raise typer.Exit(1)


def select(found: Sequence[Entry], only: Sequence[str]) -> list[Entry]:
    """Return the entries that are named; all if none is.

    Args:
        found: all of them.
        only: kinds, types of configs, or both with a slash between.
    """
    names = [{entry.kind, entry.model_type, entry.name} for entry in found]
    unknown = [name for name in only if not any(name in known for known in names)]
    if unknown:
        raise typer.BadParameter(f"no class is named {', '.join(unknown)}")
    return [entry for entry, known in zip(found, names, strict=True) if not only or known & set(only)]


def key_of(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return by what a row is told from others."""
    return tuple(row[name] for name in KEY)


def is_known(known: Collection[tuple[str, ...]], entry: Entry, recipe: str) -> bool:
    """Return whether it is known what becomes of a class by a recipe; it is by all, if it could not be built.

    Args:
        known: keys of rows.
        entry: the class.
        recipe: its name.
    """
    return any((entry.kind, entry.model_type, name, transformers.__version__) in known for name in (recipe, ""))


def run_apart(entry: Entry, recipes: Sequence[str], seconds: float) -> list[dict[str, Any]]:
    """Return the rows of a class, run in a process that is ended when its time is over.

    Args:
        entry: the class.
        recipes: names of them.
        seconds: that it may take.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["coverage_case"])
    queue = context.Queue()
    process = context.Process(target=_run, args=(entry, recipes, queue))
    process.start()
    told: list[tuple[str, dict[str, Any]]] = []
    deadline = monotonic() + seconds
    why = ""
    while not why:
        try:
            message = queue.get(timeout=min(1.0, max(0.0, deadline - monotonic())))
        except Empty:
            if monotonic() > deadline:
                why = f"took more than {seconds:g} s"
            elif not process.is_alive():
                why = f"its process ended with {process.exitcode}"
            continue
        if message is None:
            break
        told.append(message)
    process.join(1)
    if process.is_alive():
        process.kill()
        process.join()
    if why:
        told += [(recipe, {"outcome": "crashed", "detail": why}) for recipe in recipes[len(told) :]]
    about = {
        "kind": entry.kind,
        "model_type": entry.model_type,
        "model_class": entry.model_class,
        "transformers": transformers.__version__,
        "eckart": eckart.__version__,
    }
    return [{**about, "recipe": recipe, **facts} for recipe, facts in told]


def _run(entry: Entry, recipes: Sequence[str], queue: Any) -> None:
    from coverage_case import run_class

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for recipe, outcome in run_class(entry, recipes):
        queue.put((recipe, outcome.row()))
    queue.put(None)


if __name__ == "__main__":
    typer.run(main)
