"""Importance matrices of llama.cpp: the mean square of every input of every linear."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from rival_packages.made import linears_of

Importance = dict[str, NDArray[np.float32]]


@torch.no_grad()
def mean_squares(model: PreTrainedModel, ids: Tensor) -> dict[str, Tensor]:
    """Return the diagonal of the second moment of the inputs of each linear in the blocks.

    Args:
        model: in float32.
        ids: (samples, length) int64.

    Returns:
        By path of the linear, (inputs,) float64: the mean of x_j^2 over all tokens.
    """
    linears = linears_of(model)
    sums = {path: torch.zeros(linear.in_features, dtype=torch.float64) for path, linear in linears.items()}

    def watch(path: str) -> object:
        def add(_: object, inputs: tuple[Tensor, ...]) -> None:
            sums[path] += inputs[0].flatten(0, -2).square().sum(0, dtype=torch.float64)

        return linears[path].register_forward_pre_hook(add)

    handles = [watch(path) for path in linears]
    try:
        for sample in ids:
            model.base_model(input_ids=sample[None], use_cache=False)
    finally:
        for handle in handles:
            handle.remove()  # type: ignore[attr-defined]
    return {path: total / ids.numel() for path, total in sums.items()}


def gguf_names(model: PreTrainedModel) -> dict[str, str]:
    """Return what a GGUF file calls the weight of each linear in the blocks: path to ``blk.0.attn_q.weight``.

    A path for which there is no name is left out.
    """
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(
        kinds[model.config.model_type.replace("_text", "")], model.config.num_hidden_layers
    )
    found = {path: names.get_name(path) for path in linears_of(model)}
    return {path: f"{name}.weight" for path, name in found.items() if name is not None}


def named(squares: Mapping[str, Tensor], names: Mapping[str, str]) -> Importance:
    """Return mean squares by their names in a GGUF file."""
    return {name: squares[path].numpy().astype(np.float32) for path, name in names.items()}


def write_imatrix(path: Path, importance: Importance) -> None:
    """Write an importance matrix in the older of llama.cpp's formats, which its forks read, too.

    Little-endian: int32 number of tensors; of each int32 length of its name, name, int32 number of calls, int32 number
    of columns, float32 sums over the calls. One call is claimed, so that the sums are the means.
    """
    with path.open("wb") as file:
        file.write(struct.pack("<i", len(importance)))
        for name, values in importance.items():
            encoded = name.encode()
            file.write(struct.pack(f"<i{len(encoded)}sii", len(encoded), encoded, 1, len(values)))
            file.write(values.astype("<f4").tobytes())


def read_imatrix(path: Path) -> Importance:
    """Return what :func:`write_imatrix` wrote."""
    data = path.read_bytes()
    (count,), place, found = struct.unpack_from("<i", data), 4, {}
    for _ in range(count):
        (length,) = struct.unpack_from("<i", data, place)
        name = data[place + 4 : place + 4 + length].decode()
        place += 4 + length
        _, columns = struct.unpack_from("<ii", data, place)
        found[name] = np.frombuffer(data, "<f4", columns, place + 8)
        place += 8 + 4 * columns
    return found
