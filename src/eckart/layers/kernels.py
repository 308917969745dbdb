"""PyTorch's own products with weights of few bits, for the few tokens at a time that decoding consists of.

They read the codes as they are, where a product of floats would first have to make a 16-bit weight of them: on a CPU a
token then takes less time than with 16 bits, not several times more. They serve no gradients and exist for bfloat16
inputs; for many tokens at once they are slower than a product of floats. torchao runs the same ones.

There is one for 8 bits and one for 4. Codes of 3 and 2 bits are codes of 4 bits too, and a code of 6 or 5 bits is a sum
of two: 16 times one of 4 bits and another.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.weak import WeakTensorKeyDictionary

from eckart.device import is_emulated
from eckart.maths.packing import unpack
from eckart.maths.quantization import QuantScheme, expanded_scales, from_codes

MOST_TOKENS = 8  # at once for which the products of few bits are faster, measured
WIDTH = 16  # that the 8-bit product needs the inner dimension in multiples of, and packing the outer one
GROUPS = (32, 64, 128, 256)  # that the 4-bit product knows
UPPER = 16  # what the upper of two 4-bit codes counts
Packed = tuple[tuple[Tensor, Tensor], ...]
"""Codes and scales as the 4-bit product wants them, of one or two codes for each number."""

ALIGNMENT = 64  # bytes; the 8-bit product ends the process if its operands begin between the places of whole vectors


def serves(inputs: Tensor, scale: Tensor, scheme: QuantScheme, out_features: int) -> bool:
    """Return whether there is a product for a weight of that scheme and inputs (..., in features) of few tokens."""
    columns = inputs.shape[-1]
    if (
        inputs.device.type != "cpu"
        or inputs.dtype is not torch.bfloat16
        or scale.dtype is not torch.bfloat16
        or (torch.is_grad_enabled() and (inputs.requires_grad or scale.requires_grad))
        or torch.compiler.is_exporting()  # other runtimes have no such products
    ):
        return False
    if scheme.bits == 8:
        return scheme.group is None and columns % WIDTH == 0
    size = scheme.group_size(columns)
    return scheme.group is not None and size in GROUPS and columns % size == 0 and out_features % WIDTH == 0


def are_few(inputs: Tensor) -> bool:
    """Return whether inputs (..., in features) are of so few tokens that the products of few bits are faster."""
    return 0 < inputs.numel() <= MOST_TOKENS * inputs.shape[-1]


def full_product(inputs: Tensor, codes: Tensor, scale: Tensor, scheme: QuantScheme, bias: Tensor | None) -> Tensor:
    """Return the outputs, (..., out features), of a layer whose weight has few bits, by a product of floats.

    Args:
        inputs: (..., in features).
        codes: as :class:`eckart.layers.QuantizedLinear` holds them.
        scale: (out features, groups).
        scheme: of the codes.
        bias: (out features,).
    """
    dtype = inputs.dtype
    if _is_faster_in_float32(inputs):
        inputs, scale, bias = inputs.float(), scale.float(), None if bias is None else bias.float()
    codes = unpack(codes, scheme.bits, inputs.shape[-1])
    if scheme.group is not None:
        return functional.linear(inputs, from_codes(codes, scale, scheme).to(inputs.dtype), bias).to(dtype)
    # One scale a row: it may come after the product, and then the weight is never made.
    outputs = functional.linear(inputs, codes.to(inputs.dtype)) * scale[:, 0].to(inputs.dtype)
    return (outputs if bias is None else outputs + bias).to(dtype)


def _is_faster_in_float32(inputs: Tensor) -> bool:
    """Return whether inputs of 16 bits are of many tokens, for a CPU that has no products of 16 bits.

    The weight is made of its codes for this product alone, and may as well be made in float32.
    """
    return (
        inputs.device.type == "cpu"
        and inputs.dtype.itemsize == 2
        and not are_few(inputs)
        and not torch.compiler.is_compiling()
        and is_emulated(inputs.dtype)
    )


def pack_for_product(codes: Tensor, scale: Tensor, bits: int) -> Packed:
    """Return codes of 6 bits or fewer, (rows, columns) int8, and their scales, (rows, groups), as the product wants.

    Those of 6 and 5 bits are two codes for each number.
    """
    if bits <= 4:
        return (_pack_four(codes, scale),)
    upper = (codes + UPPER // 2) >> 4  # the lower one is then within 4 bits with their sign
    return _pack_four(upper, UPPER * scale), _pack_four(codes - UPPER * upper, scale)


def _pack_four(codes: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
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


def multiply_packed(inputs: Tensor, packed: Packed, group: int) -> Tensor:
    """Return the product, (..., out features), of ``inputs`` and what :func:`pack_for_product` returned."""
    flat = inputs.reshape(-1, inputs.shape[-1]).contiguous()
    products = [torch.ops.aten._weight_int4pack_mm_for_cpu(flat, codes, group, scales) for codes, scales in packed]
    product = products[0] if len(products) == 1 else products[0] + products[1]
    return cast(Tensor, product).reshape(*inputs.shape[:-1], -1)


@torch.library.custom_op("eckart::few_bits_product", mutates_args=())
def product_in_graph(
    inputs: Tensor, codes: Tensor, scales: list[Tensor], bias: Tensor | None, bits: int, group: int | None
) -> Tensor:
    """Do one product or the other, as a step of a compiled graph that a compiler does not look into.

    It could not see where tensors begin, and would write down one of them for any number of tokens.

    Args:
        inputs: (..., in features), for which there is a product (:func:`serves`).
        codes: as :class:`eckart.layers.QuantizedLinear` holds them.
        scales: (out features, groups), or what those of 8 bits are made of.
        bias: (out features,).
        bits: of the codes.
        group: how many of a row have a scale in common; None for all.
    """
    scheme = QuantScheme(bits, group)
    scale = scales[0] if len(scales) == 1 else expanded_scales(scales[0], scales[1])
    if not are_few(inputs):
        return full_product(inputs, codes, scale, scheme, bias)
    if bits == 8:
        outputs = multiply_8_bit(inputs, aligned(codes), scale)
    else:
        state = codes._version, *((tensor.data_ptr(), tensor._version) for tensor in scales)
        if codes not in _PACKED or _PACKED[codes][0] != state:
            _PACKED[codes] = state, pack_for_product(unpack(codes, bits, inputs.shape[-1]), scale, bits)
        outputs = multiply_packed(inputs, _PACKED[codes][1], scheme.group_size(inputs.shape[-1]))
    return outputs if bias is None else outputs + bias


@product_in_graph.register_fake
def _(inputs: Tensor, codes: Tensor, scales: list[Tensor], bias: Tensor | None, bits: int, group: int | None) -> Tensor:
    return inputs.new_empty(*inputs.shape[:-1], len(codes))


# Of graphs: the state of codes, and the order that the product wants.
_PACKED: MutableMapping[Tensor, tuple[object, Packed]] = WeakTensorKeyDictionary()
