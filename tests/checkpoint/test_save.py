from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
import torch
from tests.conftest import contents, make_model
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import eckart
from eckart.checkpoint.files import INDEX_NAME
from eckart.checkpoint.output import check_output
from eckart.checkpoint.records import read_records
from eckart.checkpoint.save import new_folder
from eckart.compression.result import CompressionResult
from eckart.errors import CheckpointError


@pytest.fixture
def compressed(llama: PreTrainedModel, tokens: torch.Tensor) -> tuple[PreTrainedModel, CompressionResult]:
    return llama, eckart.compress(llama, "svd-llm", 0.6, tokens, seed=7, source="a/model")


def test_the_folder_says_how_it_was_made(
    compressed: tuple[PreTrainedModel, CompressionResult],
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    tokens: torch.Tensor,
) -> None:
    model, report = compressed
    eckart.save(model, report, tmp_path / "out", tokenizer=tokenizer)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    written = config["quantization_config"]
    assert written["quant_method"] == "eckart"
    assert written["format_version"] == 1
    assert written["ranks"] == report.ranks
    assert eckart.Recipe.model_validate(written["recipe"]) == eckart.RECIPES["svd-llm"]
    assert written["calibration"]["tokens"] == tokens.numel()
    assert written["calibration"]["seed"] == 7
    assert len(written["calibration"]["sha256"]) == 64
    assert written["provenance"]["source"] == "a/model"
    assert set(written["provenance"]["versions"]) == {"python", "eckart", "torch", "transformers"}
    card = (tmp_path / "out" / "README.md").read_text()
    assert "import eckart" in card
    assert "a/model" in card
    assert "two-factor, 16-bit, bases separate" in card
    assert (tmp_path / "out" / "tokenizer.json").is_file()
    read = read_records(tmp_path / "out")
    assert read.model_dump() == report.model_dump()
    assert (read.costs.timings, read.costs.memory) == (report.costs.timings, report.costs.memory)
    assert read.spectra.keys() == report.ranks.keys()
    assert all(torch.equal(read.spectra[path], spectrum) for path, spectrum in report.spectra.items())
    assert str(tmp_path) not in "".join(p.read_text() for p in (tmp_path / "out").glob("*.json"))


def test_the_same_run_writes_the_same_bytes(tmp_path: Path, tokens: torch.Tensor) -> None:
    folders = []
    for name in ("one", "two"):
        model = make_model("llama")
        report = eckart.compress(model, "aa-svd-layer", 0.6, tokens)
        eckart.save(model, report, tmp_path / name)
        folders.append(contents(tmp_path / name))
    assert folders[0] == folders[1]


def test_bytes_on_disk_are_those_of_the_report(tmp_path: Path, llama: PreTrainedModel, tokens: torch.Tensor) -> None:
    llama.to(torch.bfloat16)
    report = eckart.compress(llama, "svd-llm", 0.6, tokens)
    eckart.save(llama, report, tmp_path / "out")
    from safetensors.torch import load_file

    (shard,) = (tmp_path / "out").glob("*.safetensors")
    factors = {key: t for key, t in load_file(shard).items() if ".first." in key or ".second.weight" in key}
    assert sum(t.numel() * t.element_size() for t in factors.values()) == sum(layer.bytes for layer in report.layers)


def test_an_existing_folder_is_kept_unless_told(
    compressed: tuple[PreTrainedModel, CompressionResult], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    eckart.save(*compressed, out)
    before = contents(out), out.stat().st_ino
    with pytest.raises(CheckpointError, match="exists"):
        eckart.save(*compressed, out)
    assert (contents(out), out.stat().st_ino) == before
    eckart.save(*compressed, out, overwrite=True)
    assert contents(out) == before[0]
    assert out.stat().st_ino != before[1]
    assert (out / INDEX_NAME).exists()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_nothing_behind(
    error: BaseException,
    compressed: tuple[PreTrainedModel, CompressionResult],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, report = compressed

    def fail(folder: Path, **kwargs: object) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise error

    monkeypatch.setattr(model, "save_pretrained", fail)
    expected = CheckpointError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected, match="disk is full" if isinstance(error, OSError) else None):
        eckart.save(model, report, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    assert model.config.quantization_config.weights is None


def test_a_failed_write_keeps_the_folder_it_was_to_replace(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with new_folder(out, overwrite=False) as partial:
        (partial / "old.txt").write_text("x")
    before = contents(out)

    def fail() -> None:
        with new_folder(out, overwrite=True) as partial:
            (partial / "new.txt").write_text("y")
            raise OSError("the cable came loose")

    with pytest.raises(CheckpointError, match="could not be written: the cable"):
        fail()
    assert contents(out) == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_no_space_is_said_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No space"):
        check_output(tmp_path / "out", overwrite=False, needed=10**18)


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    with pytest.raises(CheckpointError, match="is a file"):
        check_output(tmp_path / "out", overwrite=True)
