"""``eckart eval``."""

from __future__ import annotations

import json
from typing import Annotated

import torch
import typer
from rich.progress import Progress

from eckart.calibration import tokenize
from eckart.checkpoint import load_model, load_tokenizer
from eckart.cli.console import command, messages, output
from eckart.device import compute_dtype, resolve_device
from eckart.errors import EckartError
from eckart.evaluate import perplexity
from eckart.text import read_text


@command
def evaluate(
    model: Annotated[
        str,
        typer.Argument(help="A dense or compressed folder, a hub id, or a .gguf file.", show_default=False),
    ],
    text: Annotated[
        str,
        typer.Option(
            help="FILE (rows joined by blank lines, as WikiText is), FILE:lines (stripped, as Penn Treebank is), "
            "FILE:raw, FILE.jsonl[:FIELD], dataset:NAME:SPLIT[:FIELD[:CONFIG]], python-docs:held-out.",
            show_default=False,
        ),
    ],
    length: Annotated[int, typer.Option(min=2, help="Tokens in a window.")] = 2048,
    windows: Annotated[int | None, typer.Option(min=1, help="Take the first ones only.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, or the name of an accelerator.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure perplexity: the text as one stream of tokens, cut into windows that do not overlap."""
    place = resolve_device(device)
    content = read_text(text)
    tokenizer = load_tokenizer(model)
    # On a CPU in float32 from the start: what is stored in 16 bits is widened, not rounded again.
    loaded = load_model(model, dtype=torch.float32 if place.type == "cpu" else None)
    if tokenizer is None:
        raise EckartError(f"{model} has no tokenizer, which is needed to read text.")
    loaded.to(place, compute_dtype(loaded.dtype, place))
    with Progress(console=messages, transient=True, disable=as_json) as progress:
        task = progress.add_task("windows", total=None)
        result = perplexity(
            loaded,
            tokenize(content, tokenizer),
            length=length,
            windows=windows,
            on_window=lambda done, total: progress.update(task, completed=done, total=total),
        )
    if as_json:
        output.print_json(json.dumps({"model": model, "text": text, **result.model_dump()}))
    else:
        output.print(
            f"perplexity {result.perplexity:.3f} (mean loss {result.log_perplexity:.4f} nats a token; "
            f"{result.windows} windows of {result.length} tokens)"
        )
