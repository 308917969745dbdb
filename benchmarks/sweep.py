"""Measures what a sweep costs against separate runs of the same recipes at the same sizes, in processor seconds.

    python benchmarks/sweep.py MODEL --calibration train.txt --recipe svd-llm --recipe zs-svd --keep 0.9 --keep 0.8

Models are made and thrown away; what evaluating them costs is the same for both. Prints a Markdown table.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from time import process_time
from typing import Annotated, TypeVar

import typer
from harness import CPU

import eckart
from eckart.data.calibration import Calibration, calibrate
from eckart.sweep.build import build
from eckart.sweep.case import recipe_of, way_of
from eckart.sweep.statistics import collect

Result = TypeVar("Result")


def main(
    model: Annotated[str, typer.Argument(help="Local folder or hub id.")],
    calibration: Annotated[str, typer.Option(help="Text to calibrate on.")],
    recipe: Annotated[list[str], typer.Option(help="Recipe, with +key=value overrides appended; may be repeated.")],
    keep: Annotated[list[float], typer.Option(help="Share of bytes to keep; may be repeated.")],
    samples: int = 16,
    length: int = 1024,
) -> None:
    """Print the seconds of each recipe alone, at all sizes, and of a sweep over all of them."""
    warnings.simplefilter("ignore")
    dense, tokenizer = eckart.load_model(model), eckart.load_tokenizer(model)
    recipes = {name: recipe_of(name) for name in recipe}

    def draw() -> Calibration:
        return calibrate(calibration, samples=samples, length=length, seed=0, tokenizer=tokenizer)

    def alone(name: str, share: float) -> None:
        tokens = draw().ids if recipes[name].needs_data else calibration
        eckart.compress(copy.deepcopy(dense), recipes[name], share, tokens)

    alone(recipe[0], keep[0])  # not counted: the first run loads and allocates
    separate = {name: [seconds(lambda n=name, s=share: alone(n, s))[0] for share in keep] for name in recipe}  # type: ignore[misc]
    print("| | way | processor seconds |\n|---|---|---|")
    for name, spent in separate.items():
        each = ", ".join(f"{s:.2f}" for s in spent)
        print(
            f"| `{name}` alone at {', '.join(f'{k:g}' for k in keep)} | {way_of(recipes[name]).name.lower()} | {each} |"
        )
    shared, statistics = seconds(lambda: collect(dense, dict.fromkeys(recipes.values(), tuple(keep)), draw(), CPU))
    total = shared
    for name, chosen in recipes.items():
        spent = [seconds(lambda c=chosen, s=share: build(dense, c, s, statistics))[0] for share in keep]  # type: ignore[misc]
        total += sum(spent)
        print(f"| `{name}` in the sweep | | {', '.join(f'{s:.2f}' for s in spent)} |")
    everything = sum(map(sum, separate.values()))
    dearest = max(max(spent) for spent in separate.values())
    print(f"| statistics of the sweep | | {shared:.2f} |")
    print(f"| sweep, {len(recipes)} x {len(keep)} | | {total:.2f} |")
    print(f"| separate runs | | {everything:.2f} |")
    print(f"\nThe sweep takes {total / everything:.1%} of the separate runs, {total / dearest:.2f} of the dearest one.")


def seconds(run: Callable[[], Result]) -> tuple[float, Result]:
    """Return the processor seconds of this process, all threads, and the result."""
    start = process_time()
    result = run()
    return process_time() - start, result


if __name__ == "__main__":
    typer.run(main)
