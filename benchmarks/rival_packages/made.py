"""What a package made of a model: where it is, and what its file takes."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

STORED = 2  # bytes of a number of an embedding that is left as it is
SCALE = 2  # bytes of the scale of a row


@dataclass(frozen=True)
class Job:
    """What a package is asked to do.

    Attributes:
        dense: folder of the dense model.
        tokens: file of the samples to calibrate on: ``ids``, (samples, length) int64, as safetensors.
        tools: folder of the environments.
        cache: folder of what several calls share; None for the platform's own.
        scratch: empty folder, for what this call makes.
        calibration: all that the tokens depend on, to know what is cached by.
    """

    dense: Path
    tokens: Path
    tools: Path
    cache: Path | None
    scratch: Path
    calibration: Mapping[str, object]


@dataclass(frozen=True)
class Made:
    """A quantised model.

    Attributes:
        source: a ``.gguf`` file, or a folder that transformers loads with the weights of the quantised model.
        file_bytes: of the file that the package writes: all that is needed but for the tokenizer's own files. A
            ``.gguf`` file has a tokenizer inside.
        tensor_bytes: of the tensors in it.
        linear_bits: bits a weight of the linears in the blocks, scales included.
        package: name.
        version: of the package.
    """

    source: Path
    file_bytes: int
    tensor_bytes: int
    linear_bits: float
    package: str
    version: str


def sizes_of(path: Path) -> dict[str, int]:
    """Return the bytes of each tensor in a safetensors file, by name."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return {name: entry["data_offsets"][1] - entry["data_offsets"][0] for name, entry in header.items()}


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a folder."""
    return sorted(folder.glob("*.safetensors"))


def bits_of(sizes: Mapping[str, int], weights: Mapping[str, int]) -> float:
    """Return the stored bits of a weight: codes, scales, zero points and all else that belongs to a linear.

    Args:
        sizes: bytes by name of tensor, such as ``model.layers.0.mlp.up_proj.weight_scale``.
        weights: number of weights by the path of the linear, such as ``model.layers.0.mlp.up_proj``.
    """
    stored = sum(size for name, size in sizes.items() if name.rpartition(".")[0] in weights)
    return 8 * stored / sum(weights.values())


def linears_of(model: PreTrainedModel) -> dict[str, nn.Linear]:
    """Return the linears in the blocks, by path: all but the head."""
    head = model.get_output_embeddings()
    return {path: part for path, part in model.named_modules() if isinstance(part, nn.Linear) and part is not head}


def weight_counts(model: PreTrainedModel) -> dict[str, int]:
    """Return the number of weights of each linear in the blocks, by path."""
    return {path: linear.weight.numel() for path, linear in linears_of(model).items()}


def embeddings_of(model: PreTrainedModel) -> list[Tensor]:
    """Return the matrices of the embedding and of the head; one if they are tied."""
    parts = (model.get_input_embeddings(), model.get_output_embeddings())
    weights: list[Tensor] = [part.weight.data for part in parts if part is not None]
    return list({weight.data_ptr(): weight for weight in weights}.values())


def round_rows(weight: Tensor) -> Tensor:
    """Return a matrix rounded to 8 bits with a scale for each row: the largest magnitude becomes 127.

    Args:
        weight: (rows, columns), of any float dtype. A scale is rounded to 16 bits, as it would be stored.
    """
    scale = weight.abs().amax(dim=1, keepdim=True).double() / 127
    scale = scale.to(torch.float16).double()
    codes = (weight.double() / torch.where(scale == 0, 1, scale)).round().clamp(-127, 127)
    return (codes * scale).to(weight.dtype)


def saved_by_rounding(weight: Tensor) -> int:
    """Return the bytes that :func:`round_rows` saves on a matrix of 16-bit numbers."""
    rows, columns = weight.shape
    return int(STORED * rows * columns - rows * columns - SCALE * rows)
