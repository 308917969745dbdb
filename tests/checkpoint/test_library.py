"""Code of a folder runs only when it is asked for, and loads in threads do not get into each other's way."""

from __future__ import annotations

import io
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from tests.cli.helpers import run, words
from tests.conftest import make_model
from transformers import PreTrainedModel

import eckart
from eckart.checkpoint import load_model, load_tokenizer
from eckart.errors import CheckpointError

CODE = """
from pathlib import Path
Path({marker!r}).write_text("ran")
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
class OwnConfig(LlamaConfig):
    model_type = "own-of-this-folder"
class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
class OwnTokenizer(PreTrainedTokenizerFast):
    pass
"""
MAP = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"}


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 100))
    return tmp_path / "marker"


def put_code(folder: Path, marker: Path, *, own_type: bool = True, own_class: bool = True) -> None:
    """Let a folder bring code of its own, for a type or a class that transformers has or has not."""
    (folder / "own.py").write_text(CODE.format(marker=str(marker)))
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = MAP
    if own_type:
        config["model_type"] = "own-of-this-folder"
    if own_class:
        config["architectures"] = ["OwnForCausalLM"]
    (folder / "config.json").write_text(json.dumps(config))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {"auto_map": {"AutoTokenizer": [None, "own.OwnTokenizer"]}, "tokenizer_class": "OwnTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


@pytest.mark.parametrize(("own_type", "own_class"), [(True, True), (False, True)])
def test_code_is_not_run(own_type: bool, own_class: bool, model_folder: Path, marker: Path, tmp_path: Path) -> None:
    put_code(model_folder, marker, own_type=own_type, own_class=own_class)
    for load in (load_model, load_tokenizer):
        with pytest.raises(CheckpointError, match=r"--trust-remote-code \(in Python trust_remote_code=True\)"):
            load(model_folder)
    text = tmp_path / "text.txt"
    text.write_text("words " * 500)
    for command in (
        ["compress", model_folder, "-o", tmp_path / "out"],
        ["eval", model_folder, "--text", text],
        ["bench", model_folder],
        ["sweep", model_folder, "--recipes", "svd", "--keep", "0.8", "--text", text, "-o", tmp_path / "s.sqlite"],
        ["merge", model_folder, "-o", tmp_path / "out"],
    ):
        result = run(*command)
        assert result.exit_code == 2, result.output
        assert "add --trust-remote-code" in words(result.output)
    assert not marker.exists()
    assert not (tmp_path / "out").exists()


def test_a_class_that_transformers_has_is_its_own(model_folder: Path, marker: Path, tokens: torch.Tensor) -> None:
    put_code(model_folder, marker, own_type=False, own_class=False)
    model = load_model(model_folder)
    assert type(model) is type(make_model())
    assert torch.equal(model(tokens).logits, make_model()(tokens).logits)
    assert not marker.exists()


def test_code_is_run_when_it_is_asked_for(
    model_folder: Path, marker: Path, tokens: torch.Tensor, tmp_path: Path
) -> None:
    put_code(model_folder, marker)
    expected = make_model()(tokens).logits
    assert torch.equal(load_model(model_folder, trust_remote_code=True)(tokens).logits, expected)
    assert marker.exists()
    assert load_tokenizer(model_folder, trust_remote_code=True) is not None
    result = run("compress", model_folder, "-o", tmp_path / "out", "--recipe", "svd", "--trust-remote-code", "-q")
    assert result.exit_code == 0, result.output
    assert load_model(tmp_path / "out", trust_remote_code=True)(tokens).logits.isfinite().all()


def test_loads_in_threads(tmp_path: Path, tokens: torch.Tensor) -> None:
    model = make_model("qwen2")  # its head is tied
    model.save_pretrained(tmp_path / "model")
    expected = model(tokens).logits
    with ThreadPoolExecutor(8) as pool:
        loaded = list(pool.map(load_model, [tmp_path / "model"] * 20))
    loaded.append(load_model(tmp_path / "model"))
    for other in loaded:
        assert other.lm_head.weight is other.model.embed_tokens.weight
        assert torch.equal(other(tokens).logits, expected)
    assert PreTrainedModel.tie_weights.__qualname__ == "PreTrainedModel.tie_weights"
    assert torch.get_default_dtype() is torch.float32


def test_a_config_alone_gives_a_dense_model(llama: PreTrainedModel, tmp_path: Path) -> None:
    # Of transformers' making, and documented in docs/limits.md; if this fails, it gives what was compressed.
    eckart.save(llama, eckart.compress(llama, "svd", 0.6), tmp_path / "small")
    config = type(llama.config).from_pretrained(tmp_path / "small")
    assert not any(isinstance(module, eckart.LowRankLinear) for module in type(llama)(config).modules())
