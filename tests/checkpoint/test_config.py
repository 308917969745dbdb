from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, PreTrainedModel

import eckart
from eckart.checkpoint import load_model
from eckart.checkpoint.config import EckartConfig
from eckart.errors import CheckpointError


def test_fields_are_kept_as_they_are() -> None:
    fields: dict[str, Any] = {
        "ranks": {"a": 3, "b": None},
        "joint": [["a", "b"]],
        "joint_runs": {"a": 2},
        "structure": {"name": "pivoted"},
        "precision": {"name": "8-bit"},
        "ordered": ["a"],
        "provenance": {"versions": {"eckart": "1"}, "source": "x", "more": [1]},
    }
    config = EckartConfig(**fields)
    assert {name: getattr(config, name) for name in fields} == fields
    assert EckartConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()


@pytest.mark.parametrize(
    ("field", "value", "where"),
    [
        ("ranks", [1], "ranks = "),
        ("ranks", {"a": "3"}, r"ranks\.a = '3'"),
        ("ranks", {"a": True}, r"ranks\.a = True"),
        ("ranks", {"a": 2.0}, r"ranks\.a = 2.0"),
        ("joint", {"a": "b"}, "joint = "),
        ("joint", [["a"], "b"], r"joint\.1 = 'b'"),
        ("joint", [[]], r"joint\.0 = \[\]"),
        ("joint_runs", {"a": 0}, r"joint_runs\.a = 0"),
        ("joint_runs", {"a": "2"}, r"joint_runs\.a = '2'"),
        ("structure", 3, "structure"),
        ("precision", ["8-bit"], "precision"),
        ("affine", "yes", "affine = 'yes'"),
        ("ordered", [3], r"ordered\.0 = 3"),
        ("recipe", "svd", "recipe = 'svd'"),
        ("calibration", [], "calibration"),
        ("provenance", [], "provenance"),
        ("provenance", {"versions": ["1"]}, r"provenance\.versions = "),
        ("weights", ["a"], "weights"),
        ("format_version", "1", "format_version = '1'; expected a whole number"),
        ("format_version", True, "format_version = True; expected a whole number"),
        ("format_version", 2, "format 2; this version of eckart reads format 1"),
    ],
)
def test_the_field_that_is_wrong_is_named(field: str, value: object, where: str) -> None:
    fields: dict[str, Any] = {"ranks": {}, field: value}
    with pytest.raises(CheckpointError, match=where):
        EckartConfig(**fields)


def test_runs_are_written_where_there_are_several() -> None:
    assert EckartConfig({}, joint=[["a", "b"]], joint_runs={"a": 2}).to_dict()["joint_runs"] == {"a": 2}
    assert "joint_runs" not in EckartConfig({}, joint=[["a", "b"]]).to_dict()


@pytest.mark.parametrize("described", [[], "eckart", 3, {"quant_method": "eckart"}, {"quant_method": ["eckart"]}])
def test_what_describes_nothing(described: object, llama: PreTrainedModel, tmp_path: Path) -> None:
    eckart.save(llama, eckart.compress(llama, "svd", 0.6), tmp_path / "small")
    path = tmp_path / "small" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": described}))
    with pytest.raises(CheckpointError) as caught:
        load_model(tmp_path / "small")
    assert "has no attribute" not in str(caught.value)


def test_plain_from_pretrained_names_the_field_too(llama: PreTrainedModel, tmp_path: Path) -> None:
    eckart.save(llama, eckart.compress(llama, "svd", 0.6), tmp_path / "small")
    path = tmp_path / "small" / "config.json"
    config = json.loads(path.read_text())
    config["quantization_config"]["joint"] = {"a": 1}
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"quantization_config\.joint = \{'a': 1\}"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "small")
