"""The verb: nothing but what computes the same gets its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import make_model
from tests.runtimes.helpers import compressed, decoder
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import eckart
from eckart.errors import CheckpointError, ExportError
from eckart.runtimes import export as module
from eckart.runtimes.dense import is_compressed
from eckart.runtimes.verify import Difference


def test_dense_is_what_merge_writes(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    model = compressed(decoder(), "pivoted")
    done = eckart.export(model, "dense", tmp_path / "out", processor=tokenizer)
    assert is_compressed(model)  # and stays so
    assert done.merged == 7
    assert done.difference <= 1e-5 * done.largest
    read = eckart.load_model(tmp_path / "out")
    assert not is_compressed(read)
    ids = torch.arange(9)[None]
    with torch.no_grad():
        torch.testing.assert_close(read(ids).logits, model(ids).logits)
    assert eckart.load_tokenizer(tmp_path / "out") is not None


def test_a_folder_with_its_tokenizer(model_folder: Path, tmp_path: Path) -> None:
    done = eckart.export(model_folder, "gguf", tmp_path / "out")
    assert done.difference == 0
    assert (tmp_path / "out" / "tokenizer.json").is_file()
    with pytest.raises(CheckpointError, match=r"exists\. Use another name, or --overwrite"):
        eckart.export(model_folder, "gguf", tmp_path / "out")
    eckart.export(model_folder, "gguf", tmp_path / "out", overwrite=True)


def test_what_computes_something_else_is_not_kept(llama: PreTrainedModel, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "compare_models", lambda *_: Difference(1.0, 7.0))
        with pytest.raises(ExportError, match=r"up to 1 from .* whose largest is 7; expected at most 0\.001"):
            eckart.export(llama, "dense", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_16_bits_are_compared_with_what_they_were_merged_from(tmp_path: Path) -> None:
    model = compressed(decoder(), "two-factor").to(torch.bfloat16)
    done = eckart.export(model, "dense", tmp_path / "out")
    assert done.dtype == "bfloat16"
    assert 0 < done.difference < 0.2 * done.largest


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"to": "tflite"}, "No format is called 'tflite'"),
        ({"to": "dense", "quantize": "int8"}, "Nothing is quantized"),
        ({"to": "dense", "dtype": torch.float64}, "transformers runs no numbers of torch.float64"),
        ({"to": "dense", "output": "out.gguf"}, "named like a file"),
    ],
)
def test_what_cannot_be_is_told_before_the_model_is_loaded(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    output = tmp_path / options.pop("output", "out")
    with pytest.raises(ExportError, match=said):
        eckart.export(tmp_path / "nowhere", output=output, **options)


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is no local folder"):
        eckart.export(tmp_path / "nowhere", "dense", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        eckart.export(tmp_path / "empty", "dense", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_own_inputs_are_taken(llama: PreTrainedModel, tmp_path: Path) -> None:
    done = eckart.export(llama, "dense", tmp_path / "out", inputs={"input_ids": torch.arange(4)[None]})
    with torch.no_grad():
        assert done.largest == float(llama(torch.arange(4)[None]).logits.abs().max())


def test_no_room_is_told_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(CheckpointError, match="No space for"):
        eckart.export(make_model("llama"), "dense", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
