"""Models that lie in the format of compressed-tensors, read as ours: the layers that compute with few bits.

Both hold the same codes. There, those of a row lie in words of 32 bits from the lowest bit on, each with half of its
range added, and a scale is called ``weight_scale``. What else is to be known of such a model is in a file of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.core_model_loading import ConversionOps, WeightConverter, WeightRenaming
from transformers.utils import cached_file

from eckart.checkpoint.folder import QUIET
from eckart.checkpoint.guard import METHOD
from eckart.checkpoint.tensors import StoredTensor
from eckart.errors import CheckpointError
from eckart.files.names import read_json
from eckart.maths.packing import pack, packed_width, unpack

STANDARD = "compressed-tensors"  # the method of that name in a config
STANDARD_NAME = "eckart/quantization.json"
PACKED, SCALE, SHAPE = "weight_packed", "weight_scale", "weight_shape"
CODES, OUR_SCALE = "codes", "scale"


def described_as_ours(source: str | Path) -> dict[str, Any] | None:
    """Return what our config says of a model in the standard format, or None if it is not one that we wrote."""
    folder = Path(source)
    if not folder.is_dir():
        found = cached_file(str(source), STANDARD_NAME, **QUIET)
        if found is None:
            return None
        folder = Path(found).parent.parent
    if not (folder / STANDARD_NAME).exists():
        if (folder / STANDARD_NAME).parent.is_dir():
            raise CheckpointError(
                f"{folder / STANDARD_NAME} is gone, in which Eckart wrote how it rounded the layers. Copy or download "
                f"the folder again; transformers alone loads what is there."
            )
        return None
    described = read_json(folder, STANDARD_NAME)
    if not isinstance(described, dict) or described.get("quant_method") != METHOD:
        raise CheckpointError(
            f"{folder / STANDARD_NAME} holds no object of the method {METHOD}. It was changed or damaged: copy or "
            "download it again."
        )
    return described


def check_packed(paths: Iterable[str], stored: Mapping[str, StoredTensor]) -> None:
    """Raise unless files hold all of each layer; what reads them would only say that something is wrong.

    Args:
        paths: of the layers in few bits, as the files have them.
        stored: what the files hold.

    Raises:
        CheckpointError: names the tensor.
    """
    for path in paths:
        for part, dtype in ((PACKED, "I32"), (SHAPE, "I64"), (SCALE, None)):
            found = stored.get(f"{path}.{part}")
            if found is None or found.dtype != (dtype or found.dtype):
                what = "lack" if found is None else f"hold as {found.dtype}, and not as {dtype},"
                raise CheckpointError(
                    f"The weight files {what} {path}.{part}. They are damaged: copy or download the folder again."
                )


def codes_of(packed: Tensor, bits: int, columns: int) -> Tensor:
    """Return codes as our layers hold them.

    Args:
        packed: (rows, words) int32.
        bits: of a code.
        columns: codes in a row.
    """
    # The bytes of a word from its lowest, whatever order this machine has them in.
    places = torch.arange(0, 32, 8, device=packed.device, dtype=torch.int32)
    as_bytes = ((packed[..., None] >> places) & 255).to(torch.uint8).flatten(1)
    if bits == 8:
        return (as_bytes[:, :columns].to(torch.int16) - 128).to(torch.int8)
    # Packed again: what fills a row up is nothing there, and zero with half of its range added here.
    return pack(unpack(as_bytes[:, : packed_width(columns, bits)], bits, columns), bits)


class FromPacked(ConversionOps):  # type: ignore[misc]
    """Turns the tensors of a layer in the standard format into its codes, while it is loaded."""

    def __init__(self, bits: Mapping[str, int]) -> None:
        self.bits = bits

    def _bits_of(self, name: str | None) -> int:
        """Return the bits of the codes of a tensor; its layer may be called by a longer or a shorter path."""
        path = str(name).rpartition(".")[0]
        if path in self.bits:
            return self.bits[path]
        for known, bits in self.bits.items():
            if path.endswith(f".{known}") or known.endswith(f".{path}"):
                return bits
        raise CheckpointError(f"The weight files hold codes of {path}, which {STANDARD_NAME} does not name.")

    def convert(
        self,
        input_dict: dict[str, Any],
        source_patterns: list[str],
        target_patterns: list[str],
        full_layer_name: str | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """See the base class."""
        tensors = [value[0] if isinstance(value, list) else value for value in input_dict.values()]
        packed = next((tensor for tensor in tensors if tensor.ndim == 2), None)
        shape = next((tensor for tensor in tensors if tensor.ndim == 1), None)
        if packed is None or shape is None or packed.dtype != torch.int32 or len(shape) != 2:
            raise CheckpointError(
                f"The weight files lack {PACKED} or {SHAPE} where {full_layer_name} is, or hold something else there. "
                "They are damaged: copy or download the folder again."
            )
        return {str(full_layer_name): codes_of(packed, self._bits_of(full_layer_name), int(shape[1]))}


def conversions(bits: Mapping[str, int]) -> list[Any]:
    """Return what transformers does to the tensors of a model in the standard format while it reads them.

    Args:
        bits: of the codes of each layer, by path.
    """
    return [
        WeightRenaming(rf"\.{SCALE}$", f".{OUR_SCALE}"),
        WeightConverter([f"{PACKED}$", f"{SHAPE}$"], CODES, [FromPacked(bits)]),
    ]
