"""``eckart resize``: a smaller folder of one with nested ranks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.cli.helpers import run, words

import eckart


@pytest.fixture
def nested(model_folder: Path, tmp_path: Path) -> Path:
    out = tmp_path / "nested"
    done = run("compress", model_folder, "-o", out, "--recipe", "svd", "--keep", 0.6, "--nested", "--quiet")
    assert done.exit_code == 0, done.output
    return out


def test_compress_inspect_resize(nested: Path, tokens: torch.Tensor, tmp_path: Path) -> None:
    sizes = json.loads(run("inspect", nested, "--sizes", "--json").stdout)
    asked = sizes[3]["keep"]
    done = run("resize", nested, "--keep", asked, "-o", tmp_path / "smaller")
    assert done.exit_code == 0, done.output
    assert "of weights" in done.output
    model = eckart.load_model(tmp_path / "smaller")
    with torch.no_grad():
        assert torch.equal(model(tokens).logits, eckart.load_model(nested, keep=asked)(tokens).logits)
    assert eckart.load_tokenizer(tmp_path / "smaller") is not None
    shown = run("inspect", tmp_path / "smaller")
    assert "Resized from" in words(shown.stdout)
    kept = json.loads(run("inspect", tmp_path / "smaller", "--json").stdout)
    assert kept["keep"] == pytest.approx(sizes[3]["kept"])
    written = sum(path.stat().st_size for path in (tmp_path / "smaller").glob("*.safetensors"))
    assert written < sum(path.stat().st_size for path in nested.glob("*.safetensors"))
    again = run("resize", tmp_path / "smaller", "--keep", sizes[-1]["keep"], "-o", tmp_path / "smaller")
    assert again.exit_code == 2
    assert run("resize", tmp_path / "smaller", "--keep", sizes[-1]["keep"], "-o", tmp_path / "least").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nested", "--keep", "0.7"], "found keep 0.7. A folder is resized to less than it holds"),
        (["nested", "--keep", "0.001"], "holds sizes from"),
        (["nested", "--keep", "2"], "found 2"),
        (["dense", "--keep", "0.5"], "does not say in which order"),
        (["nowhere", "--keep", "0.5"], "There is no folder"),
    ],
)
def test_what_cannot_be(arguments: list[str], message: str, nested: Path, tmp_path: Path) -> None:
    name, *options = arguments
    done = run("resize", tmp_path / name, *options, "-o", tmp_path / "out")
    assert done.exit_code == 2
    assert message in words(done.output)
    assert not (tmp_path / "out").exists()
