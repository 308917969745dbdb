"""PyTorch's own products with weights of few bits, for the few tokens at a time that decoding consists of.

They read the codes as they are, where a product of floats would first have to make a 16-bit weight of them: on a CPU a
token then takes less time than with 16 bits, not several times more. They serve no gradients and exist for bfloat16
inputs; for many tokens at once they are slower than a product of floats. torchao runs the same ones.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import cast

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from eckart.maths.quantization import QuantScheme, unpack

MOST_TOKENS = 8  # at once for which the products of few bits are faster, measured
WIDTH = 16  # that the 8-bit product needs the inner dimension in multiples of, and packing the outer one
GROUPS = (32, 64, 128, 256)  # that the 4-bit product knows
ALIGNMENT = 64  # bytes; the 8-bit product ends the process if its operands begin between the places of whole vectors


def can_multiply(inputs: Tensor, scale: Tensor, scheme: QuantScheme, out_features: int) -> bool:
    """Return whether :func:`multiply` serves ``inputs``, (..., in features), for a weight of that scheme."""
    columns = inputs.shape[-1]
    if (
        inputs.device.type != "cpu"
        or inputs.dtype is not torch.bfloat16
        or scale.dtype is not torch.bfloat16
        or not 0 < inputs.numel() <= MOST_TOKENS * columns
        or (torch.is_grad_enabled() and (inputs.requires_grad or scale.requires_grad))
        or torch.compiler.is_exporting()  # other runtimes have no such products
    ):
        return False
    if scheme.bits == 8:
        return scheme.group is None and columns % WIDTH == 0
    size = scheme.group_size(columns)
    return scheme.group is not None and size in GROUPS and columns % size == 0 and out_features % WIDTH == 0


def pack_for_product(codes: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return 4-bit codes, (rows, columns) int8, and their scales as the product wants them."""
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.to(torch.int32) + 8, 1)
    scales = scale.detach().T
    return packed, torch.stack([scales, torch.zeros_like(scales)], dim=-1).contiguous()


def aligned(tensor: Tensor) -> Tensor:
    """Return a contiguous tensor that begins where the 8-bit product can read it: itself, or a copy.

    What PyTorch allocates does so. A view into another tensor, or into a file that is mapped into memory, need not.
    """
    tensor = tensor.contiguous()
    return tensor if tensor.data_ptr() % ALIGNMENT == 0 else tensor.clone()


def multiply_8_bit(inputs: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
    """Return the product, (..., out features), of ``inputs`` and codes with a scale for each row.

    Args:
        inputs: (..., in features).
        codes: (out features, in features) int8, :func:`aligned`.
        scale: (out features, 1).
    """
    flat = aligned(inputs.reshape(-1, inputs.shape[-1]))
    return cast(Tensor, torch.ops.aten._weight_int8pack_mm(flat, codes, scale[:, 0].contiguous())).reshape(
        *inputs.shape[:-1], -1
    )


def multiply_4_bit(inputs: Tensor, packed: tuple[Tensor, Tensor], group: int) -> Tensor:
    """Return the product, (..., out features), of ``inputs`` and what :func:`pack_for_product` returned."""
    flat = inputs.reshape(-1, inputs.shape[-1]).contiguous()
    codes, scales = packed
    product = torch.ops.aten._weight_int4pack_mm_for_cpu(flat, codes, group, scales)
    return cast(Tensor, product).reshape(*inputs.shape[:-1], -1)


@torch.library.custom_op("eckart::few_bits_product", mutates_args=())
def compiled_product(inputs: Tensor, codes: Tensor, scale: Tensor, group: int) -> Tensor:
    """Do either product as one step of a compiled graph, which cannot look where tensors begin.

    Args:
        inputs: (..., in features).
        codes: as :class:`eckart.layers.QuantizedLinear` holds them.
        scale: (out features, groups).
        group: inputs of a scale of 4-bit codes; 0 for 8-bit codes with a scale a row.
    """
    if not group:
        return multiply_8_bit(inputs, aligned(codes), scale)
    state = codes._version, scale.data_ptr(), scale._version
    if codes not in _PACKED or _PACKED[codes][0] != state:
        _PACKED[codes] = state, pack_for_product(unpack(codes, inputs.shape[-1]), scale)
    return multiply_4_bit(inputs, _PACKED[codes][1], group)


@compiled_product.register_fake
def _(inputs: Tensor, codes: Tensor, scale: Tensor, group: int) -> Tensor:
    return inputs.new_empty(*inputs.shape[:-1], len(codes))


# Of compiled graphs: the state of codes, and the order that the product wants.
_PACKED: MutableMapping[Tensor, tuple[object, tuple[Tensor, Tensor]]] = WeakTensorKeyDictionary()
