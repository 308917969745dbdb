"""Folders that the first version wrote load for ever, and give the logits that they gave then."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.cli.helpers import run
from transformers import AutoModelForCausalLM, PreTrainedModel

import eckart

FIXTURES = Path(__file__).parents[1] / "fixtures" / "format1"
# Name of the recipe, bytes kept of the linears in per cent, and linears that were factored.
WRITTEN = {
    "two-factor": ("svd-llm", 56, 14),
    "affine": ("svd-llm", 57, 8),
    "shared-pivoted": ("svd-llm", 58, 8),
    "8-bit": ("svd-llm", 38, 14),
    "4-bit": ("svd-llm", 24, 8),
    "4-bit-whole": ("gptq", 28, 0),
    "sparse-hybrid": ("svd-llm", 76, 14),
    "trained": ("eckart", 59, 13),
    "hybrid": ("svd-llm", 58, 14),
    "remapped": ("svd-llm", 58, 8),
    "refined": ("aa-svd", 56, 14),
}
# Loaded as float32, the same numbers are added up everywhere, in an order that depends on the processor and on
# PyTorch: other instructions and more threads gave up to 3.5 roundings of the largest logit.
ROUNDINGS = 16 * torch.finfo(torch.float32).eps


def check_logits(model: PreTrainedModel, name: str) -> None:
    expected = load_file(FIXTURES / f"{name}.expected.safetensors")
    with torch.no_grad():
        logits = model.eval()(expected["ids"]).logits
    tolerance = ROUNDINGS * float(expected["logits"].abs().max())
    torch.testing.assert_close(logits, expected["logits"], rtol=0, atol=tolerance)


def inspected(name: str) -> dict[str, Any]:
    result = run("inspect", FIXTURES / name, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_all_folders_are_there() -> None:
    assert {path.name for path in FIXTURES.iterdir() if path.is_dir()} == set(WRITTEN)


@pytest.mark.parametrize("name", WRITTEN)
def test_plain_from_pretrained_gives_the_logits_of_then(name: str) -> None:
    check_logits(AutoModelForCausalLM.from_pretrained(FIXTURES / name, dtype=torch.float32), name)


@pytest.mark.parametrize("name", WRITTEN)
def test_load_model_gives_the_logits_of_then(name: str) -> None:
    check_logits(eckart.load_model(FIXTURES / name, dtype=torch.float32), name)


@pytest.mark.parametrize("name", WRITTEN)
def test_another_model_gives_other_logits(name: str) -> None:
    model = eckart.load_model(FIXTURES / name, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.get_output_embeddings().parameters():
            parameter.mul_(1.001)
    with pytest.raises(AssertionError, match="not close"):
        check_logits(model, name)


@pytest.mark.parametrize("name", WRITTEN)
def test_what_was_recorded_is_shown(name: str) -> None:
    recipe, kept, factored = WRITTEN[name]
    found = inspected(name)
    assert found["recipe"]["name"].split(" ")[0] == recipe
    assert int(100 * found["keep"]) == kept
    assert sum(layer["rank"] is not None for layer in found["layers"]) == factored
    assert all(layer["error"] > 0 for layer in found["layers"] if layer["rank"] is not None)
    assert sum(layer["bytes"] for layer in found["layers"]) < found["bytes_on_disk"]
    result = run("inspect", FIXTURES / name)
    assert result.exit_code == 0, result.output
    assert f"Recipe {recipe}" in result.output


@pytest.mark.parametrize(("name", "distilled"), [("refined", False), ("trained", True)])
def test_what_was_trained_is_recorded(name: str, distilled: bool) -> None:
    found = inspected(name)
    assert len(found["refinements"]) == 2
    assert (found["distillation"] is not None) is distilled


def test_the_report_page_shows_all_of_them(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    result = run("report", *(FIXTURES / name for name in WRITTEN), "-o", page)
    assert result.exit_code == 0, result.output
    assert f"{len(WRITTEN)} models" in result.output
    text = page.read_text(encoding="utf-8")
    assert all(name in text for name in WRITTEN)


def test_a_dense_model_is_made_of_each(tmp_path: Path) -> None:
    for name in WRITTEN:
        result = run("merge", FIXTURES / name, "-o", tmp_path / name)
        assert result.exit_code == 0, result.output
