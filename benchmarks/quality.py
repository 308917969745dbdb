"""Measures what recipes cost in quality, all in one harness: one model, one calibration set, several texts.

    python benchmarks/quality.py MODEL --calibration valid.txt --text test.txt --recipe svd-llm --keep 0.8

Prints one JSON line a measurement, and a Markdown table at the end.
"""

from __future__ import annotations

import copy
import json
import math
import warnings
from pathlib import Path
from time import perf_counter
from typing import Annotated

import torch
import typer
from transformers import PreTrainedModel

import eckart
from eckart.data.calibration import calibrate
from eckart.data.draw import tokenize
from eckart.data.text import read_text
from eckart.device import peak_host_memory


def main(
    model: Annotated[str, typer.Argument(help="Local folder, hub id or .gguf file.")],
    calibration: Annotated[str, typer.Option(help="Text to calibrate on.")],
    text: Annotated[list[str], typer.Option(help="Text to measure on; may be repeated.")],
    recipe: Annotated[list[str], typer.Option(help="Recipe, with +key=value overrides appended; may be repeated.")],
    keep: Annotated[list[float], typer.Option(help="Share of bytes to keep; may be repeated.")],
    samples: int = 16,
    length: int = 1024,
    seed: Annotated[list[int], typer.Option(help="Calibration seed; may be repeated.")] = [0],  # noqa: B006
    windows: int = 20,
    window_length: int = 1024,
    on_calibration: Annotated[
        bool, typer.Option("--on-calibration", help="Measure on the calibration tokens too, to see over-fitting.")
    ] = False,
    output: Annotated[Path | None, typer.Option(help="Append the JSON lines to this file.")] = None,
    baseline_from: Annotated[
        Path | None, typer.Option(help="Take the dense model's numbers from these JSON lines of an earlier run.")
    ] = None,
) -> None:
    """Measure perplexity of the dense model and of each recipe at each size."""
    warnings.simplefilter("ignore")
    tokenizer = eckart.load_tokenizer(model)
    assert tokenizer is not None, f"{model} has no tokenizer"
    dense = eckart.load_model(model)
    texts = {Path(name).name: tokenize(read_text(name), tokenizer) for name in text}
    drawn = {n: calibrate(calibration, samples=samples, length=length, seed=n, tokenizer=tokenizer) for n in seed}

    def measure(candidate: PreTrainedModel, number: int) -> dict[str, float]:
        candidate.to(torch.float32)
        known = {"calibration tokens": drawn[number].ids.flatten()} if on_calibration else {}
        return {
            name: eckart.perplexity(candidate, ids, length=window_length, windows=windows).log_perplexity
            for name, ids in {**texts, **known}.items()
        }

    if baseline_from is not None:
        earlier = [json.loads(line) for line in baseline_from.read_text(encoding="utf-8").splitlines()]
        baseline = next(row["log_perplexity"] for row in earlier if row["recipe"] == "dense")
        assert baseline.keys() == texts.keys(), f"{baseline_from} is of other texts: {', '.join(baseline)}"
    else:
        baseline = measure(copy.deepcopy(dense), seed[0])
    rows = [{"recipe": "dense", "keep": 1.0, "seed": None, "log_perplexity": baseline}]
    _emit(rows[-1], output)
    for name in recipe:
        base, *overrides = name.split("+")
        for share in keep:
            for number in seed:
                candidate = copy.deepcopy(dense)
                start = perf_counter()
                report = eckart.compress(
                    candidate,
                    base,
                    share,
                    drawn[number].ids,
                    seed=number,
                    overrides=overrides,
                )
                rows.append(
                    {
                        "recipe": name,
                        "keep": share,
                        "seed": number,
                        "kept": report.keep,
                        "tokens": report.calibration.tokens if report.calibration else 0,
                        "seconds": perf_counter() - start,
                        "statistics_seconds": report.costs.timings.statistics,
                        "factorisation_seconds": report.costs.timings.factorisation,
                        "refinement_seconds": report.costs.timings.refinement,
                        "refinements": [record.model_dump(exclude={"epochs"}) for record in report.refinements],
                        "peak_bytes": peak_host_memory(),
                        "log_perplexity": measure(candidate, number),
                    }
                )
                _emit(rows[-1], output)
    print(_table(rows, baseline))


def _emit(row: dict[str, object], output: Path | None) -> None:
    line = json.dumps(row)
    print(line, flush=True)
    if output is not None:
        with output.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def _table(rows: list[dict[str, object]], baseline: dict[str, float]) -> str:
    lines = [
        "| recipe | keep | seed | " + " | ".join(f"{name} | excess" for name in baseline) + " |",
        "|---|---|---|" + "---|---|" * len(baseline),
    ]
    for row in rows:
        losses = row["log_perplexity"]
        assert isinstance(losses, dict)
        cells = " | ".join(f"{math.exp(losses[n]):.2f} | {losses[n] - baseline[n]:.3f}" for n in baseline)
        lines.append(f"| {row['recipe']} | {row['keep']} | {row['seed']} | {cells} |")
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
