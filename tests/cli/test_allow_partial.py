"""A model of which only a small part can be compressed, on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.cli.helpers import run, words
from tests.conftest import byte_tokenizer
from tests.run.check import architectures

import eckart
from eckart.sweep import read_failures

OPTIONS = ("--samples", 4, "--length", 16, "--keep", 0.6)


@pytest.fixture
def experts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a mixture whose experts are taken for none: no class of today's has such."""
    monkeypatch.setattr("eckart.blocks.expert_stacks.find_stacks", lambda *_: {})
    folder = tmp_path / "experts"
    architectures.made(architectures.mixtral).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def test_compress_refuses_it_unless_that_is_wanted(experts: Path, text_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ("-o", out, "--recipe", "svd-llm", "--calibration", text_file, *OPTIONS)
    refused = run("compress", experts, *options)
    assert refused.exit_code == 2
    assert "stay as they are: model.layers.*.mlp.experts" in words(refused.output)
    assert "--allow-partial" in refused.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["experts", "text.txt"]
    done = run("compress", experts, *options, "--allow-partial")
    assert done.exit_code == 0, done.output
    shown = words(done.output)
    assert "compression reaches" in shown
    assert "Samples take 16 of 64 positions" in shown
    assert "Warning: Most of the blocks stays as it is" in shown
    assert eckart.CompressionResult.model_validate_json((out / "eckart" / "report.json").read_text()).check is not None


def test_sweep_refuses_it_unless_that_is_wanted(experts: Path, text_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "sweep.sqlite"
    options = ("-o", out, "--recipes", "svd", "--text", text_file, "--keep", 0.6, "--windows", 2, "--window-length", 16)
    refused = run("sweep", experts, *options, "--length", 16, "--samples", 4)
    assert refused.exit_code == 2
    assert "--allow-partial" in refused.output
    done = run("sweep", experts, *options, "--length", 16, "--samples", 4, "--allow-partial")
    assert done.exit_code == 0, done.output
    assert not read_failures(out)
