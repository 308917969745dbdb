from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import any_transformer
import pytest
import torch
from harness import Rows
from small_models.subjects import Subject
from tests.conftest import make_model
from torch import Tensor
from transformers import PreTrainedModel

import eckart
from eckart.errors import EckartError

FIXED = {"on": "test", "samples": 6, "seed": 0, "quick": True}


class Tiny(Subject):
    """A decoder with two halves."""

    name, score = "tiny", "nearness"
    parts: ClassVar = {"first": ("*layers.0.*",), "all": ()}

    def __init__(self, *, quick: bool = False, cache: Path | None = None) -> None:
        self.dense = make_model()

    def load(self) -> PreTrainedModel:
        return make_model()

    def calibration(self, samples: int, seed: int = 0) -> Tensor:
        return torch.randint(256, (samples, 24), generator=torch.Generator().manual_seed(seed))

    @torch.inference_mode()
    def quality(self, model: PreTrainedModel, part: str) -> dict[str, float]:
        ids = self.calibration(2, seed=1)
        return {"nearness": 1 / (1 + float((model(ids).logits - self.dense(ids).logits).abs().mean()))}


def test_each_part_recipe_and_size_is_measured_once(tmp_path):
    path = tmp_path / "rows.jsonl"
    for _ in range(2):
        rows = Rows(path, any_transformer.KEY)
        any_transformer.measure(Tiny(), ["first", "all"], ["svd-llm"], [0.8, 0.4], FIXED, rows)
    written = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["part"], row["recipe"], row["keep"]) for row in written] == [
        ("all", "dense", 1.0),
        ("first", "svd-llm", 0.8),
        ("first", "svd-llm", 0.4),
        ("all", "svd-llm", 0.8),
        ("all", "svd-llm", 0.4),
    ]
    dense, part, *_, mild, strong = written
    assert dense["scores"]["nearness"] == 1
    assert 1 > mild["scores"]["nearness"] > strong["scores"]["nearness"]
    assert mild["kept"] == pytest.approx(0.8, abs=0.04)
    assert mild["kept"] < mild["kept_whole"] < part["kept_whole"] < 1
    assert part["scores"]["nearness"] > mild["scores"]["nearness"]


def test_what_is_refused_is_said_and_left_out(monkeypatch, tmp_path, capsys):
    def refuse(*_: Any, **__: Any) -> None:
        raise EckartError("This cannot be compressed.")

    monkeypatch.setattr(eckart, "compress", refuse)
    rows = Rows(None, any_transformer.KEY)
    any_transformer.measure(Tiny(), ["all"], ["svd-llm"], [0.8], FIXED, rows)
    assert [row["recipe"] for row in rows.rows] == ["dense"]
    assert "tiny, all, svd-llm at 0.8: This cannot be compressed." in capsys.readouterr().out


def row(part: str, recipe: str, keep: float, score: float) -> dict[str, Any]:
    return {"model": "tiny", "part": part, "recipe": recipe, "keep": keep, "scores": {"nearness": score}}


def test_the_table():
    rows = [
        row("all", "dense", 1.0, 0.9876),
        row("first", "svd-llm", 0.8, 0.8),
        row("first", "svd-llm", 0.4, 0.41),
        row("all", "eckart", 0.4, 0.7),
    ]
    assert any_transformer.table(rows, "nearness").splitlines() == [
        "| tiny | recipe | 0.8 | 0.4 |",
        "|---|---|---|---|",
        "| nearness | dense | 0.988 | 0.988 |",
        "| first | svd-llm | 0.800 | 0.410 |",
        "| all | eckart |  | 0.700 |",
    ]
