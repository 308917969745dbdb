"""``eckart eval``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from transformers import PreTrainedModel

from eckart.checkpoint import load_model, load_tokenizer
from eckart.checkpoint.loaded import check_unchanged
from eckart.cli.console import TrustRemoteCode, command, output
from eckart.cli.evaluation_table import evaluation_table
from eckart.cli.progress import progress_display
from eckart.data.draw import tokenize
from eckart.data.text import read_text
from eckart.device import compute_dtype, resolve_device
from eckart.errors import EckartError
from eckart.evaluate import ZeroShot, agreement, continuation, load_tasks, perplexity, zero_shot
from eckart.evaluate.continuation import prompt_ids
from eckart.evaluate.windows import count_windows, length_of_windows


@command
def evaluate(
    model: Annotated[
        str,
        typer.Argument(help="A dense or compressed folder, a hub id, or a .gguf file.", show_default=False),
    ],
    text: Annotated[
        list[str] | None,
        typer.Option(
            help="FILE (rows joined by blank lines, as WikiText is), FILE:lines (stripped, as Penn Treebank is), "
            "FILE:raw, FILE.jsonl[:FIELD], dataset:NAME:SPLIT[:FIELD[:CONFIG]], python-docs:held-out; may be repeated.",
            show_default=False,
        ),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(help="Tasks of lm-evaluation-harness: names with commas between them.", show_default=False),
    ] = None,
    task_path: Annotated[
        Path | None,
        typer.Option(
            help="A folder of task definitions (YAML) of your own. What names Python code needs --trust-remote-code.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Take the first documents of each task only.", show_default=False)
    ] = None,
    few_shot: Annotated[
        int | None,
        typer.Option(
            min=0, help="Examples in front of each question; default: the task's own, usually 0.", show_default=False
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Requests of tasks at once.")] = 8,
    baseline: Annotated[
        str | None, typer.Option(help="Compare with this model, usually the dense one.", show_default=False)
    ] = None,
    length: Annotated[
        int | None,
        typer.Option(min=2, help="Tokens in a window.  [default: 2048, or the model's context]", show_default=False),
    ] = None,
    windows: Annotated[int | None, typer.Option(min=1, help="Take the first ones only.")] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="Let the model go on from this text, too; may be repeated.", show_default=False),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, or the name of an accelerator.")] = "auto",
    trust_remote_code: TrustRemoteCode = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure perplexity on texts and scores on zero-shot tasks, and let the model write: at least one of them.

    Each text is one stream of tokens, cut into windows that do not overlap. With a baseline, also how far the
    predictions are from its own: the divergence of the next-token distributions, how often both find the same token
    most likely, and the difference of the scores over the same documents.
    """
    place = resolve_device(device)
    if not text and tasks is None and not prompt:
        raise EckartError("Nothing to measure: give --text FILE, --tasks NAME,NAME, --prompt TEXT, or some of them.")
    if tasks is None and not (task_path is None and limit is None and few_shot is None):
        raise EckartError("--task-path, --limit and --few-shot belong to --tasks, which is not given.")
    contents = {name: read_text(name) for name in dict.fromkeys(text or [])}
    names = [name.strip() for name in (tasks or "").split(",") if name.strip()]
    found = None
    if tasks is not None:
        found = load_tasks(names, path=task_path, few_shot=few_shot, trust_remote_code=trust_remote_code)
    tokenizer = load_tokenizer(model, trust_remote_code=trust_remote_code)
    loaded = _load(model, place, trust_remote_code)
    other = None if baseline is None else _load(baseline, place, trust_remote_code)
    if tokenizer is None:
        raise EckartError(f"{model} has no tokenizer, which is needed to read text.")
    # What cannot be measured is said before anything is.
    models = [loaded] if other is None else [loaded, other]
    streams = {name: tokenize(content, tokenizer) for name, content in contents.items()}
    lengths = {name: length_of_windows(models, ids, length) for name, ids in streams.items()}
    for name, ids in streams.items():
        count_windows(ids, lengths[name], windows)
    for start in prompt or []:
        for each in models:
            prompt_ids(each, tokenizer, start)
    rows: list[dict[str, Any]] = []
    scores: ZeroShot | None = None
    # It holds on to the stream: the harness's own progress is hidden by putting another in its place.
    with progress_display(disable=as_json, stream=sys.stderr) as progress:
        bar = progress.add_task("windows", total=None)

        def advance(done: int, total: int, what: str = "windows") -> None:
            progress.update(bar, completed=done, total=total, description=what)

        for name in streams:
            options: dict[str, Any] = {"length": lengths[name], "windows": windows, "on_window": advance}
            ids = streams[name]
            row = {"text": name, **perplexity(loaded, ids, **options).model_dump()}
            if other is not None:
                row["baseline"] = perplexity(other, ids, **options).model_dump()
                row["agreement"] = agreement(loaded, other, ids, **options).model_dump()
            rows.append(row)
        if found is not None:
            scores = zero_shot(
                loaded,
                tokenizer,
                found,
                baseline=other,
                limit=limit,
                batch_size=batch_size,
                on_request=lambda task, done, total: advance(done, total, task),
            )
    samples: list[dict[str, Any]] = []
    for start in prompt or []:
        samples.append({"prompt": start, "text": continuation(loaded, tokenizer, start)})
        if other is not None:
            samples[-1]["baseline"] = continuation(other, tokenizer, start)
    check_unchanged(*models)
    if as_json:
        facts = {"model": model, "baseline": baseline, "texts": rows, "samples": samples}
        output.print_json(json.dumps({**facts, "tasks": None if scores is None else scores.model_dump()}))
        return
    if rows or scores is not None:
        output.print(evaluation_table(rows, scores, compared=other is not None))
    for sample in samples:
        for name in [model] if baseline is None else [baseline, model]:
            output.print(f"{name}: ", style="bold", end="")
            output.print(sample["text" if name == model else "baseline"])


def _load(source: str, place: torch.device, trusted: bool) -> PreTrainedModel:
    # On a CPU in float32 from the start: what is stored in 16 bits is widened, not rounded again.
    loaded = load_model(source, dtype=torch.float32 if place.type == "cpu" else None, trust_remote_code=trusted)
    return loaded.to(place, compute_dtype(loaded.dtype, place))
