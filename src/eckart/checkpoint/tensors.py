"""What weight files say of their tensors, and whether that is what a model expects; no tensor is read."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from eckart.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FLOATS = ("F64", "F32", "F16", "BF16")
SIGNED = ("I64", "I32", "I16")
BYTES = {torch.uint8: "U8", torch.int8: "I8"}
DAMAGED = "The file was changed or damaged: copy or download it again."


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: its dtype as safetensors calls it, and its shape."""

    file: Path
    dtype: str
    shape: tuple[int, ...]

    @property
    def is_float(self) -> bool:
        """Whether it holds plain floating-point numbers."""
        return self.dtype in FLOATS

    @property
    def nbytes(self) -> int:
        """Bytes that it takes in the file."""
        bits = int("".join(c for c in self.dtype.split("_")[0] if c.isdigit()) or 8)  # BOOL takes a byte
        return math.prod(self.shape) * bits // 8


def stored_tensors(files: Iterable[str | Path]) -> dict[str, StoredTensor]:
    """Return what safetensors files hold, by name; files of other kinds are left out.

    Raises:
        CheckpointError: a file is damaged, or two files hold a tensor of one name: which is meant, nothing says.
    """
    found: dict[str, StoredTensor] = {}
    for file in map(Path, files):
        if file.suffix != ".safetensors":
            continue
        try:
            with safe_open(file, framework="pt") as shard:
                for name in shard.keys():  # noqa: SIM118
                    if name in found:
                        raise CheckpointError(
                            f"Both {found[name].file} and {file} hold the tensor {name!r}, expected in one file only. "
                            "The folder is a mixture of two models: copy or download it again."
                        )
                    part = shard.get_slice(name)
                    found[name] = StoredTensor(file, part.get_dtype(), tuple(part.get_shape()))
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{file} cannot be read: {error}. {DAMAGED}") from error
    return found


def check_dtypes(model: PreTrainedModel, stored: dict[str, StoredTensor]) -> None:
    """Raise if a tensor is stored in numbers that its place in ``model`` cannot take: it would be converted in silence.

    Raises:
        CheckpointError: names the tensor, what it is and what it should be.
    """
    prefix = f"{model.base_model_prefix}."
    places: dict[str, Tensor] = dict(model.state_dict())
    for name, tensor in stored.items():
        spelled = (name, name.removeprefix(prefix), prefix + name)
        place = next((places[key] for key in spelled if key in places), None)
        if place is not None and tensor.dtype not in (expected := _expected(place.dtype)):
            raise CheckpointError(
                f"{tensor.file.name} holds {name} as {tensor.dtype}; expected {' or '.join(expected)}. {DAMAGED}"
            )


def _expected(dtype: torch.dtype) -> tuple[str, ...]:
    if dtype.is_floating_point:
        return FLOATS
    if dtype in BYTES:
        return (BYTES[dtype],)
    return ("BOOL", "U8") if dtype is torch.bool else SIGNED


def check_finite(model: nn.Module) -> None:
    """Raise if a parameter of ``model`` that is in memory is NaN or infinite.

    Raises:
        CheckpointError: names the tensor.
    """
    for name, parameter in model.named_parameters():
        if parameter.is_meta or not parameter.is_floating_point() or not parameter.numel():
            continue
        # The extremes are infinite or NaN if any number is, and take no memory.
        if not all(map(math.isfinite, (float(end) for end in torch.aminmax(parameter.detach())))):
            raise CheckpointError(f"The weight files hold NaN or infinite numbers in {name}. {DAMAGED}")
