"""The main job from end to end on a small real model: compress, write, load back, measure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from time import perf_counter

import torch
from pydantic import BaseModel
from torch import Tensor

from eckart.checkpoint import load_model, load_tokenizer
from eckart.checkpoint.save import check_new_folder, new_folder, save
from eckart.cli.demo.model import MODEL
from eckart.cli.demo.steps import Step
from eckart.compression.callback import Callback
from eckart.data.context import context_of
from eckart.data.draw import tokenize
from eckart.data.text import PYTHON_DOCS, read_text
from eckart.errors import CheckpointError
from eckart.evaluate import Perplexity, continuation, perplexity
from eckart.run.compress import compress

DENSE = "dense"
HELD_OUT = f"{PYTHON_DOCS}:held-out"
SAMPLES, LENGTH = 8, 512  # so few that all is done in minutes
WINDOWS = 8
PROMPT = "In Python, a dictionary is"


class Row(BaseModel):
    """One model of the demo, as measured after it was loaded back from disk.

    Attributes:
        name: of its folder.
        step: what it is; None for the dense model.
        keep: stored bytes of the linear layers over their 16-bit bytes.
        perplexity: on the held-out text.
        bytes_on_disk: of its weight files.
        seconds: from reading the dense model to having written this one.
        continuation: what it wrote behind :data:`PROMPT`.
    """

    name: str
    step: Step | None
    keep: float
    perplexity: Perplexity
    bytes_on_disk: int
    seconds: float
    continuation: str


def check_folders(folder: Path, steps: Sequence[Step]) -> None:
    """Raise what would stop :func:`run_demo` from writing, before minutes are spent on it.

    Raises:
        CheckpointError: a folder holds something that Eckart did not write, or cannot be written.
    """
    for name in (DENSE, *(step.name for step in steps)):
        check_new_folder(folder / name, overwrite=True)


def run_demo(
    source: Path,
    folder: Path,
    steps: Sequence[Step],
    *,
    shown: Callable[[Step], AbstractContextManager[Callback]],
) -> Iterator[Row]:
    """Yield the dense model and then each compressed one, as soon as each is measured.

    Args:
        source: the dense model, a folder or a ``.gguf`` file.
        folder: for the models; those of an earlier demo in it are replaced.
        steps: what to make.
        shown: gives, for each of them, what is told how far it is; entered while it is compressed.

    Raises:
        EckartError: with a message that says what to do.
    """
    tokenizer = load_tokenizer(source)
    if tokenizer is None:
        raise CheckpointError(f"{source} has no tokenizer, which is needed to read text.")
    start = perf_counter()
    dense = load_model(source)
    length = min(LENGTH, context_of(dense) or LENGTH)
    with new_folder(folder / DENSE, overwrite=True) as partial:
        dense.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
    del dense
    held_out = tokenize(read_text(HELD_OUT), tokenizer)
    yield _measure(folder / DENSE, None, 1.0, perf_counter() - start, held_out, length)
    for step in steps:
        start = perf_counter()
        with shown(step) as callback:
            model = load_model(folder / DENSE)
            result = compress(
                model,
                step.recipe,
                step.keep,
                PYTHON_DOCS,
                tokenizer=tokenizer,
                samples=SAMPLES,
                length=length,
                source=MODEL,
                callback=callback,
            )
            save(model, result, folder / step.name, tokenizer=tokenizer, overwrite=True)
            del model
        yield _measure(folder / step.name, step, result.keep, perf_counter() - start, held_out, length)


def _measure(folder: Path, step: Step | None, keep: float, seconds: float, held_out: Tensor, length: int) -> Row:
    model, tokenizer = load_model(folder, dtype=torch.float32), load_tokenizer(folder)
    return Row(
        name=folder.name,
        step=step,
        keep=keep,
        perplexity=perplexity(model, held_out, length=length, windows=WINDOWS),
        bytes_on_disk=sum(path.stat().st_size for path in folder.glob("*.safetensors")),
        seconds=seconds,
        continuation=continuation(model, tokenizer, PROMPT),
    )
