"""A program that compresses, measures or loads a model goes on with the random numbers that it would have had."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from tests.conftest import make_model

import eckart
from eckart.run.random_state import random_state_kept
from eckart.sweep import run

OPTIONS: dict[str, Any] = {"samples": 4, "length": 16}
RECIPES = {
    "svd-llm": (),
    "eckart-fast": (),
    "dobi-svd": ("allocation.epochs=1", "allocation.training_samples=1"),
    "eora": (),
    "aa-svd": ("refinement.epochs=1",),
}


def numpy_state() -> list[int]:
    state = numpy.random.get_state(legacy=False)
    assert isinstance(state, dict)
    return [*state["state"]["key"].tolist(), state["state"]["pos"]]


@contextmanager
def unchanged() -> Iterator[None]:
    states = random.getstate(), numpy_state(), torch.get_rng_state()
    yield
    assert random.getstate() == states[0]
    assert numpy_state() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])


def test_all_three_are_given_back_after_an_error() -> None:
    @random_state_kept()
    def draw() -> None:
        torch.rand(int(random.random() * numpy.random.rand()) + 1)
        raise ValueError("in between")

    for _ in range(2):  # a decorator keeps the state of each call
        random.random()
        with unchanged(), pytest.raises(ValueError, match="in between"):
            draw()


@pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning")
@pytest.mark.parametrize("recipe", RECIPES)
def test_compressing_in_memory(recipe: str, tokens: torch.Tensor) -> None:
    model = make_model("gpt2" if recipe == "svd-llm" else "llama")
    with unchanged():
        eckart.compress(model, recipe, 0.6, tokens[:4], overrides=RECIPES[recipe])


def test_compressing_on_text_of_the_model_itself() -> None:
    model = make_model("llama")
    with unchanged():
        eckart.compress(model, "svd-llm", 0.6, "self", **OPTIONS, overrides=["objective.shrinkage=0.03"])


def test_compressing_loading_and_measuring_on_disk(model_folder: Path, text_file: Path, tmp_path: Path) -> None:
    with unchanged():
        report = eckart.compress_checkpoint(
            model_folder, tmp_path / "out", "svd-llm", 0.6, str(text_file), **OPTIONS, overrides=["sharing=shared"]
        )
    with unchanged():
        model = eckart.load_model(tmp_path / "out")
        eckart.perplexity(model, torch.arange(200), length=32)
        model.dequantize()
    assert report.keep <= 0.6


def test_a_sweep(tokenizer, text_file: Path, tmp_path: Path) -> None:
    model = make_model("llama")
    options: dict[str, Any] = {
        "output": tmp_path / "sweep.sqlite",
        "texts": [str(text_file)],
        "calibration": str(text_file),
    }
    options |= {"windows": 2, "window_length": 16, "samples": [4], "length": 16, "tokenizer": tokenizer}
    with unchanged():
        rows = list(run(model, ["svd", "eckart-fast"], keep=[0.6], **options))
    assert len(rows) == 3
