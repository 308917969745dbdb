"""Tensors that a model's class has no place for are said, with the bytes that are lost."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.checkpoint.test_odd_checkpoints import Tensors, stored
from tests.conftest import make_model

import eckart
from eckart.checkpoint import load_model
from eckart.checkpoint.left_out import note_on_left_out
from eckart.checkpoint.tensors import StoredTensor
from eckart.errors import EckartWarning


def more_tokens_ahead(tensors: Tensors) -> None:
    tensors["model.mtp.0.proj.weight"] = torch.ones(64, 32)
    tensors["mtp.norm.weight"] = torch.ones(32)


def test_what_the_class_does_not_hold_is_said_and_recorded(tmp_path: Path) -> None:
    folder = stored(tmp_path / "model", more_tokens_ahead)
    message = r"holds 2 tensors that Qwen2ForCausalLM has no place for, such as 'model\.mtp.*MB, \d.*not be in what is"
    with pytest.warns(EckartWarning, match=message):
        load_model(folder)
    with pytest.warns(EckartWarning, match=message):
        report = eckart.compress_checkpoint(folder, tmp_path / "out", "svd", 0.8)
    assert [warning for warning in report.warnings if "model.mtp" in warning]
    assert "model.mtp" in (tmp_path / "out" / "eckart" / "report.json").read_text()


def test_weights_that_the_class_is_told_to_ignore_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = stored(tmp_path / "model", more_tokens_ahead)
    kind = type(make_model("qwen2"))
    monkeypatch.setattr(kind, "_keys_to_ignore_on_load_unexpected", [r"mtp\."])
    with pytest.warns(EckartWarning, match=r"holds 1 tensors .*'model\.mtp\.0\.proj\.weight'"):
        load_model(folder)


def entry(*shape: int, dtype: str = "F32") -> StoredTensor:
    return StoredTensor(Path("m.safetensors"), dtype, shape)


def test_the_share_is_of_the_bytes_in_the_files() -> None:
    model = make_model("qwen2")
    held = {"model.norm.weight": entry(3_000_000), "extra.a": entry(500_000), "extra.b": entry(1000, 500, dtype="F16")}
    note = note_on_left_out("a/model", model, ["extra.b", "extra.a", "never.stored"], held)
    assert note == (
        "a/model holds 3 tensors that Qwen2ForCausalLM has no place for, such as 'extra.a' (3.0 MB, 20.0% of the bytes "
        "of its weights). They are not loaded, and will not be in what is made of this model."
    )
    unknown = note_on_left_out("a/model", model, ["never.stored"], held)
    assert unknown is not None
    assert "MB" not in unknown
    assert note_on_left_out("a/model", model, [], held) is None


@pytest.mark.parametrize(
    ("name", "tensor", "said"),
    [
        ("mtp.proj", entry(4, 4), True),
        ("mtp.experts", entry(2, 4, 4), True),
        ("mtp.scale", entry(4), False),  # buffers of older versions
        ("mtp.mask", entry(1, 1, 4, 4), False),
        ("mtp.codes", entry(4, 4, dtype="I8"), False),
        ("lm_head.weight", entry(4, 4), False),  # it has a place
        ("other.proj", entry(4, 4), False),  # not told to be ignored: others say what happens to it
    ],
)
def test_only_weights_that_were_to_be_ignored_are_a_loss(
    name: str, tensor: StoredTensor, said: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = type(make_model("qwen2"))
    monkeypatch.setattr(kind, "_keys_to_ignore_on_load_unexpected", [r"^mtp\.", r"lm_head"])
    assert (note_on_left_out("a/model", make_model("qwen2"), [], {name: tensor}) is not None) == said
