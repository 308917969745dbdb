"""``eckart merge``: what is multiplied back is the compressed model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cli.helpers import run
from transformers import AutoModelForCausalLM


def test_compress_eval_inspect_merge(compressed: Path, model_folder: Path, text_file: Path, tmp_path: Path) -> None:
    shown = run("inspect", compressed)
    assert shown.exit_code == 0
    assert "model.layers.2.mlp.down_proj" in shown.output
    details = json.loads(run("inspect", compressed, "--json").output)
    assert details["keep"] <= 0.6
    assert details["bytes_on_disk"] == sum(path.stat().st_size for path in compressed.glob("*.safetensors"))
    assert len(details["layers"]) == 21

    def measure(folder: Path) -> float:
        result = run("eval", folder, "--text", text_file, "--length", 64, "--windows", 4, "--json")
        assert result.exit_code == 0, result.output
        return float(json.loads(result.stdout)["texts"][0]["perplexity"])

    merged = run("merge", compressed, "-o", tmp_path / "merged")
    assert merged.exit_code == 0, merged.output
    assert measure(tmp_path / "merged") == pytest.approx(measure(compressed), rel=1e-4)
    assert measure(compressed) != pytest.approx(measure(model_folder), rel=5e-4)
    tensors = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").state_dict()
    assert tensors.keys() == AutoModelForCausalLM.from_pretrained(model_folder).state_dict().keys()
