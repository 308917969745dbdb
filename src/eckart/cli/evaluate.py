"""``eckart eval``."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any

import torch
import typer
from rich import box
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table
from torch import Tensor
from transformers import PreTrainedModel

from eckart.calibration import tokenize
from eckart.checkpoint import load_model, load_tokenizer
from eckart.cli.console import command, messages, output
from eckart.device import compute_dtype, resolve_device
from eckart.errors import EckartError
from eckart.evaluate import agreement, continuation, perplexity
from eckart.text import read_text

CONFIDENCE = 1.96  # standard errors on either side, for 95 %


@command
def evaluate(
    model: Annotated[
        str,
        typer.Argument(help="A dense or compressed folder, a hub id, or a .gguf file.", show_default=False),
    ],
    text: Annotated[
        list[str],
        typer.Option(
            help="FILE (rows joined by blank lines, as WikiText is), FILE:lines (stripped, as Penn Treebank is), "
            "FILE:raw, FILE.jsonl[:FIELD], dataset:NAME:SPLIT[:FIELD[:CONFIG]], python-docs:held-out; may be repeated.",
            show_default=False,
        ),
    ],
    baseline: Annotated[
        str | None, typer.Option(help="Compare with this model, usually the dense one.", show_default=False)
    ] = None,
    length: Annotated[int, typer.Option(min=2, help="Tokens in a window.")] = 2048,
    windows: Annotated[int | None, typer.Option(min=1, help="Take the first ones only.")] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="Let the model go on from this text, too; may be repeated.", show_default=False),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, or the name of an accelerator.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure perplexity on texts: each one stream of tokens, cut into windows that do not overlap.

    With a baseline, also how far the predictions are from its own: the divergence of the next-token distributions, and
    how often both find the same token most likely.
    """
    place = resolve_device(device)
    contents = {name: read_text(name) for name in dict.fromkeys(text)}
    tokenizer = load_tokenizer(model)
    loaded = _load(model, place)
    other = None if baseline is None else _load(baseline, place)
    if tokenizer is None:
        raise EckartError(f"{model} has no tokenizer, which is needed to read text.")
    rows: list[dict[str, Any]] = []
    with Progress(console=messages, transient=True, disable=as_json) as progress:
        task = progress.add_task("windows", total=None)

        def advance(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        for name, content in contents.items():
            ids: Tensor = tokenize(content, tokenizer)
            options: dict[str, Any] = {"length": length, "windows": windows, "on_window": advance}
            row = {"text": name, **perplexity(loaded, ids, **options).model_dump()}
            if other is not None:
                row["baseline"] = perplexity(other, ids, **options).model_dump()
                row["agreement"] = agreement(loaded, other, ids, **options).model_dump()
            rows.append(row)
    samples: list[dict[str, Any]] = []
    for start in prompt or []:
        samples.append({"prompt": start, "text": continuation(loaded, tokenizer, start)})
        if other is not None:
            samples[-1]["baseline"] = continuation(other, tokenizer, start)
    if as_json:
        output.print_json(json.dumps({"model": model, "baseline": baseline, "texts": rows, "samples": samples}))
        return
    output.print(_table(rows))
    for sample in samples:
        for name in [model] if baseline is None else [baseline, model]:
            output.print(f"[bold]{escape(name)}:[/] ", end="")
            output.print(sample["text" if name == model else "baseline"], markup=False)


def _load(source: str, place: torch.device) -> PreTrainedModel:
    # On a CPU in float32 from the start: what is stored in 16 bits is widened, not rounded again.
    loaded = load_model(source, dtype=torch.float32 if place.type == "cpu" else None)
    return loaded.to(place, compute_dtype(loaded.dtype, place))


def _table(rows: list[dict[str, Any]]) -> Table:
    columns = ["text", "windows", "perplexity", "95 % between", "nats a token"]
    if "agreement" in rows[0]:
        columns += ["baseline", "excess", "divergence (nats)", "same top token"]
    table = Table(*columns, box=box.SIMPLE)
    for row in rows:
        cells = [row["text"], f"{row['windows']} x {row['length']}", f"{row['perplexity']:.3f}"]
        cells += [_interval(row["log_perplexity"], row["error"]), f"{row['log_perplexity']:.4f}"]
        if "agreement" in row:
            other, shared = row["baseline"], row["agreement"]
            margins = _margin(shared["divergence_error"], ".4f"), _margin(shared["top_1_error"], ".1%")
            cells += [
                f"{other['perplexity']:.3f}",
                f"{row['log_perplexity'] - other['log_perplexity']:+.4f}",
                f"{shared['divergence']:.4f}{margins[0]}",
                f"{shared['top_1']:.1%}{margins[1]}",
            ]
        table.add_row(*cells)
    return table


def _interval(mean: float, error: float | None) -> str:
    """Return the interval of the perplexity, from the error of the mean loss."""
    if error is None:
        return "one window"
    return f"{math.exp(mean - CONFIDENCE * error):.3f} and {math.exp(mean + CONFIDENCE * error):.3f}"


def _margin(error: float | None, form: str) -> str:
    return "" if error is None else f" ± {CONFIDENCE * error:{form}}"
