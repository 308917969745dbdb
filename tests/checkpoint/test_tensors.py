"""A compressed folder whose files hold other numbers than were written is not loaded in silence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.conftest import make_model
from transformers import AutoModelForCausalLM

import eckart
from eckart.checkpoint.source import open_model
from eckart.checkpoint.tensors import check_dtypes, check_finite, stored_tensors
from eckart.errors import CheckpointError

LAYER = "model.layers.1.mlp.up_proj"


def fill(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        tensor.view(-1)[-1] = value
        return tensor

    return change


def cast(dtype: torch.dtype) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda tensor: tensor.to(dtype)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (f"{LAYER}.first.scale", fill(torch.nan), "NaN or infinite numbers in {}"),
        (f"{LAYER}.second.scale", fill(torch.inf), "NaN or infinite numbers in {}"),
        ("model.norm.weight", fill(-torch.inf), "NaN or infinite numbers in {}"),
        (f"{LAYER}.first.scale", cast(torch.bool), "holds {} as BOOL; expected F64 or F32"),
        (f"{LAYER}.first.scale", cast(torch.int32), "holds {} as I32; expected F64 or F32"),
        (f"{LAYER}.first.scale", cast(torch.float8_e5m2), "holds {} as F8_E5M2; expected F64 or F32"),
        (f"{LAYER}.first.codes", cast(torch.float32), "holds {} as F32; expected I8"),
        (f"{LAYER}.first.codes", cast(torch.uint8), "holds {} as U8; expected I8"),
        ("lm_head.weight", cast(torch.int64), "holds {} as I64; expected F64 or F32"),
    ],
)
def test_numbers_that_cannot_be(
    name: str, change: Callable[[torch.Tensor], torch.Tensor], message: str, tmp_path: Path
) -> None:
    model = make_model()
    eckart.save(model, eckart.compress(model, "svd", 0.3, overrides=["precision=8-bit"]), tmp_path / "small")
    (shard,) = (tmp_path / "small").glob("*.safetensors")
    tensors = load_file(shard)
    tensors[name] = change(tensors[name])
    save_file(tensors, shard, metadata={"format": "pt"})
    for load in (AutoModelForCausalLM.from_pretrained, eckart.load_model):
        with pytest.raises(CheckpointError, match=message.format(name.replace(".", r"\."))):
            load(tmp_path / "small")


def test_what_files_hold(tmp_path: Path) -> None:
    tensors = {"a": torch.zeros(3, 5, dtype=torch.bfloat16), "b": torch.zeros(2, dtype=torch.bool)}
    save_file(tensors, tmp_path / "x.safetensors")
    found = stored_tensors([tmp_path / "x.safetensors", tmp_path / "x.bin"])
    assert {name: (t.dtype, t.shape, t.nbytes, t.is_float) for name, t in found.items()} == {
        "a": ("BF16", (3, 5), 30, True),
        "b": ("BOOL", (2,), 2, False),
    }
    check_dtypes(make_model(), found)  # names of no tensor of the model
    (tmp_path / "y.safetensors").write_bytes(b"no")
    with pytest.raises(CheckpointError, match=r"y\.safetensors cannot be read"):
        stored_tensors([tmp_path / "y.safetensors"])


def test_finite_numbers_of_any_size_are_fine() -> None:
    model = torch.nn.Linear(3, 2).half()
    model.weight.data.fill_(65504)
    model.register_parameter("empty", torch.nn.Parameter(torch.ones(0)))
    check_finite(model)


def test_a_tensor_that_two_files_hold_is_not_chosen_in_silence(tmp_path: Path) -> None:
    model = make_model()
    model.save_pretrained(tmp_path / "m", max_shard_size="20KB")
    files = sorted((tmp_path / "m").glob("*.safetensors"))
    tensors = load_file(files[0])
    name = min(tensors)
    save_file({**load_file(files[1]), name: tensors[name] + 1}, files[1], metadata={"format": "pt"})
    for load in (eckart.load_model, lambda path: open_model(path, tmp_path / "offload")):
        with pytest.raises(CheckpointError, match=f"{files[0].name} and .*{files[1].name} hold the tensor '{name}'"):
            load(tmp_path / "m")
