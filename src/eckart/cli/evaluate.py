"""``eckart eval``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
import typer

from eckart import processes
from eckart.checkpoint import load_model, load_tokenizer
from eckart.checkpoint.loaded import check_unchanged
from eckart.checkpoint.processor import load_processor
from eckart.cli.console import TrustRemoteCode, command, output
from eckart.cli.evaluate_items import ItemOptions
from eckart.cli.evaluation_table import evaluation_table
from eckart.cli.progress import progress_display
from eckart.data.calibration import MAX_SEED
from eckart.data.draw import tokenize
from eckart.data.text import read_text
from eckart.device import compute_dtype, resolve_device
from eckart.errors import EckartError
from eckart.evaluate import MEASURES, ZeroShot, agreement, continuation, load_tasks, perplexity, zero_shot
from eckart.evaluate.caches import CacheKind
from eckart.evaluate.continuation import prompt_ids
from eckart.evaluate.windows import check_predicts, count_windows, length_of_windows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DEFAULT_ITEMS = 200
PIECE = 64  # tokens


@command
@processes.together()
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
    cache: Annotated[
        str | None,
        typer.Option(
            help="Hand windows to the model in pieces, which it reads from a cache: dense, latent[:BITS], quanto:BITS, "
            "hqq:BITS or window:TOKENS.",
            show_default=False,
        ),
    ] = None,
    piece: Annotated[
        int | None, typer.Option(min=1, help="Tokens of a piece, with --cache.  [default: 64]", show_default=False)
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="Let the model go on from this text, too; may be repeated.", show_default=False),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="Items for models of any kind: a folder of images or sounds (its subfolders are classes), FILE.jsonl "
            "with image, audio, text, messages, prompt, answer or label, dataset:NAME:SPLIT, or a text; may be "
            "repeated.",
            show_default=False,
        ),
    ] = None,
    pairs: Annotated[
        list[Path] | None,
        typer.Option(
            help="Pairs of texts with a score of how alike they are (.jsonl, .tsv, .csv): rank correlation of the "
            "model's vectors with it; may be repeated.",
            show_default=False,
        ),
    ] = None,
    measure: Annotated[
        str | None,
        typer.Option(
            help=f"What to measure on items: {', '.join(MEASURES)}, with commas between them.  [default: by the kind "
            "of model]",
            show_default=False,
        ),
    ] = None,
    options: Annotated[
        str | None,
        typer.Option(
            help="Answers to choose from, with commas between them: how often the right one has the lowest loss.",
            show_default=False,
        ),
    ] = None,
    question: Annotated[
        str | None, typer.Option(help="What to ask of items that ask nothing themselves.", show_default=False)
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Items to draw of each source.")] = DEFAULT_ITEMS,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Of the draw.")] = 0,
    chat: Annotated[
        bool, typer.Option("--chat", help="Write questions and answers by the model's chat template.")
    ] = False,
    pooling: Annotated[str, typer.Option(help="Of tokens to one vector: mean, first or last.")] = "mean",
    device: Annotated[str, typer.Option(help="auto, cpu, or the name of an accelerator.")] = "auto",
    trust_remote_code: TrustRemoteCode = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure perplexity on texts, answers and classes on items, scores on zero-shot tasks: at least one of them.

    Each text is one stream of tokens, cut into windows that do not overlap. With a baseline, also how far the
    predictions are from its own: the divergence of the next-token distributions, how often both find the same token
    most likely, and the difference of the scores over the same documents.
    """
    place = resolve_device(device, processes.turn())
    first, as_json = processes.rank() == 0, as_json or processes.rank() > 0  # which shows no progress
    asked = ItemOptions(
        sources=data or [],
        pairs=pairs or [],
        measures=None if measure is None else _names(measure),
        options=_names(options or ""),
        question=question,
        samples=samples,
        seed=seed,
        length=length,
        chat=chat,
        pooling=pooling,
    )
    streamed = bool(text or tasks is not None or prompt)
    if not (streamed or asked.any):
        raise EckartError(
            "Nothing to measure: give --text FILE, --data SOURCE, --pairs FILE, --tasks NAME,NAME, --prompt TEXT, or "
            "some of them."
        )
    if tasks is None and not (task_path is None and limit is None and few_shot is None):
        raise EckartError("--task-path, --limit and --few-shot belong to --tasks, which is not given.")
    if not data and not (measure is None and options is None and question is None):
        raise EckartError("--measure, --options and --question belong to --data, which is not given.")
    if cache is not None and not text:
        raise EckartError("--cache belongs to --text, which is not given.")
    if piece is not None and cache is None:
        raise EckartError("--piece belongs to --cache, which is not given.")
    kind = None if cache is None else CacheKind.parse(cache)
    contents = {name: read_text(name) for name in dict.fromkeys(text or [])}
    names = _names(tasks or "")
    found = None
    if tasks is not None:
        found = load_tasks(names, path=task_path, few_shot=few_shot, trust_remote_code=trust_remote_code)
    tokenizer = load_tokenizer(model, trust_remote_code=trust_remote_code)
    loaded = _load(model, place, trust_remote_code)
    other = None if baseline is None else _load(baseline, place, trust_remote_code)
    models = [loaded] if other is None else [loaded, other]
    processor = load_processor(model, trust_remote_code=trust_remote_code) if asked.any else None
    if streamed:
        for each in models:
            check_predicts(each)
    if tokenizer is None and streamed:
        raise EckartError(f"{model} has no tokenizer, which is needed to read text.")
    # What cannot be measured is said before anything is.
    streams = {name: tokenize(content, tokenizer) for name, content in contents.items()}
    lengths = {name: length_of_windows(models, ids, length) for name, ids in streams.items()}
    for name, ids in streams.items():
        count_windows(ids, lengths[name], windows)
    for start in prompt or []:
        for each in models:
            prompt_ids(each, tokenizer, start)
    rows: list[dict[str, Any]] = []
    items: list[dict[str, Any]] = []
    scores: ZeroShot | None = None
    # It holds on to the stream: the harness's own progress is hidden by putting another in its place.
    with progress_display(disable=as_json, stream=sys.stderr) as progress:
        bar = progress.add_task("windows", total=None)

        def advance(done: int, total: int, what: str = "windows") -> None:
            progress.update(bar, completed=done, total=total, description=what)

        for name in streams:
            how: dict[str, Any] = {"length": lengths[name], "windows": windows, "on_window": advance}
            ids = streams[name]
            row = {"text": name, **perplexity(loaded, ids, cache=kind, piece=piece or PIECE, **how).model_dump()}
            if other is not None:  # without a cache, as whole windows: that is what a cache is compared with
                row["baseline"] = perplexity(other, ids, **how).model_dump()
                if kind is None:
                    row["agreement"] = agreement(loaded, other, ids, **how).model_dump()
            rows.append(row)
        if asked.any and first:
            items = asked.measure(loaded, other, processor, advance)
        if found is not None and first:
            scores = zero_shot(
                loaded,
                tokenizer,
                found,
                baseline=other,
                limit=limit,
                batch_size=batch_size,
                on_request=lambda task, done, total: advance(done, total, task),
            )
    written: list[dict[str, Any]] = []
    for start in (prompt or []) if first else []:
        written.append({"prompt": start, "text": continuation(loaded, tokenizer, start)})
        if other is not None:
            written[-1]["baseline"] = continuation(other, tokenizer, start)
    check_unchanged(*models)
    if not first:
        return
    if as_json:
        facts = {"model": model, "baseline": baseline, "texts": rows, "items": items, "samples": written}
        output.print_json(json.dumps({**facts, "tasks": None if scores is None else scores.model_dump()}))
        return
    if rows or items or scores is not None:
        output.print(evaluation_table(rows, scores, compared=other is not None, items=items))
    for sample in written:
        for name in [model] if baseline is None else [baseline, model]:
            output.print(f"{name}: ", style="bold", end="")
            output.print(sample["text" if name == model else "baseline"])


def _names(listed: str) -> list[str]:
    return [name.strip() for name in listed.split(",") if name.strip()]


def _load(source: str, place: torch.device, trusted: bool) -> PreTrainedModel:
    # On a CPU in float32 from the start: what is stored in 16 bits is widened, not rounded again.
    loaded = load_model(source, dtype=torch.float32 if place.type == "cpu" else None, trust_remote_code=trusted)
    return loaded.to(place, compute_dtype(loaded.dtype, place))
