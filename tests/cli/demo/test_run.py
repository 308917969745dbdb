from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import eckart
from eckart.cli.demo.run import HELD_OUT, PROMPT, check_folders, run_demo
from eckart.cli.demo.steps import Step
from eckart.data.draw import tokenize
from eckart.data.text import read_text
from eckart.errors import CheckpointError

STEPS = (Step("int8", 0.6), Step("svd", 0.5))


@contextmanager
def silent(step: Step) -> Iterator[eckart.Callback]:
    yield eckart.Callback()


def test_rows_are_of_the_models_on_disk(source: Path, tmp_path: Path) -> None:
    rows = list(run_demo(source, tmp_path / "demo", STEPS, shown=silent))
    assert [row.name for row in rows] == ["dense", "int8-0.6", "svd-0.5"]
    assert [row.step for row in rows] == [None, *STEPS]
    assert rows[0].keep == 1
    assert all(row.keep <= row.step.keep for row in rows if row.step)
    held_out = tokenize(read_text(HELD_OUT), eckart.load_tokenizer(source))
    for row in rows:
        folder = tmp_path / "demo" / row.name
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        again = eckart.perplexity(model, held_out, length=64, windows=8)  # 64: the model's context
        assert row.perplexity.perplexity == pytest.approx(again.perplexity, rel=1e-5)
        assert row.bytes_on_disk == sum(
            path.stat().st_size for path in folder.rglob("*.safetensors") if "spectra" not in path.name
        )
        assert row.continuation
        assert not row.continuation.startswith(PROMPT)
    assert len({row.perplexity.perplexity for row in rows}) == len(rows)
    assert rows[0].bytes_on_disk > rows[1].bytes_on_disk


def test_a_row_comes_when_its_model_is_done(source: Path, tmp_path: Path) -> None:
    begun = []

    @contextmanager
    def noted(step: Step) -> Iterator[eckart.Callback]:
        begun.append(step)
        yield eckart.Callback()

    rows = run_demo(source, tmp_path / "demo", STEPS, shown=noted)
    assert next(rows).name == "dense"
    assert begun == []
    assert next(rows).step == STEPS[0]
    assert begun == [STEPS[0]]


def test_a_model_without_a_tokenizer_is_refused(source: Path, tmp_path: Path) -> None:
    for path in source.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(CheckpointError, match="has no tokenizer"):
        next(run_demo(source, tmp_path / "demo", STEPS, shown=silent))


def test_folders_of_others_are_refused(tmp_path: Path) -> None:
    check_folders(tmp_path / "demo", STEPS)
    (tmp_path / "demo" / "svd-0.5").mkdir(parents=True)
    check_folders(tmp_path / "demo", STEPS)
    (tmp_path / "demo" / "svd-0.5" / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match=r"holds 'notes.txt'"):
        check_folders(tmp_path / "demo", STEPS)
