"""A linear layer whose weight is held in few bits, in memory as on disk."""

from __future__ import annotations

from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from eckart.layers import kernels
from eckart.layers.linear import bias_vector, dense_like, weight_matrix
from eckart.layers.rows import RowsLayer
from eckart.maths.packing import pack, unpack
from eckart.maths.quantization import QuantScheme, expanded_scales, from_codes, scale_codes


class QuantizedLinear(RowsLayer):
    """``y = (scale * codes) x + b``, the codes whole numbers of few bits.

    Attributes:
        codes: (out features, in features) int8, or below 8 bits packed, (out features, bytes of a row) uint8.
        scale: (out features, groups), in the dtype of the layer; a parameter, so that it can be trained. Not where
            scales have 8 bits:
        scale_codes: (out features, groups) int8, and
        row_scale: (out features, 1), in the dtype of the layer, the number that all of a row are multiplied by.
        bias: (out features,) or None.
        replaced: class of the layer that this one stands for, restored by :meth:`to_dense`.
    """

    codes: Tensor
    scale: nn.Parameter
    scale_codes: Tensor
    row_scale: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        scheme: QuantScheme,
        *,
        bias: bool = True,
        replaced: type[nn.Module] = nn.Linear,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.scheme, self.replaced = in_features, out_features, scheme, replaced
        self._packed: tuple[object, kernels.Packed] | None = None
        zeros = pack(torch.zeros(1, in_features, dtype=torch.int8), scheme.bits)
        self.register_buffer("codes", zeros.to(device).repeat(out_features, 1))
        groups = scheme.groups(in_features)
        if scheme.scale_bits == 16:
            self.scale = nn.Parameter(torch.ones(out_features, groups, device=device, dtype=dtype))
        else:
            self.register_buffer("scale_codes", torch.ones(out_features, groups, device=device, dtype=torch.int8))
            self.row_scale = nn.Parameter(torch.ones(out_features, 1, device=device, dtype=dtype))
        self.register_parameter(
            "bias", nn.Parameter(torch.zeros(out_features, device=device, dtype=dtype)) if bias else None
        )

    @classmethod
    def empty_like(cls, linear: nn.Module, scheme: QuantScheme) -> Self:
        """Return a layer with the shape, bias, device and dtype of ``linear``, its numbers not yet set."""
        weight = weight_matrix(linear)
        bias = bias_vector(linear) is not None
        return cls(
            weight.shape[1],
            weight.shape[0],
            scheme,
            bias=bias,
            replaced=type(linear),
            device=weight.device,
            dtype=weight.dtype,
        )

    def set_codes(self, codes: Tensor) -> None:
        """Set the codes, (out features, in features) int8."""
        self.codes.copy_(pack(codes, self.scheme.bits))

    def scales(self, rows: slice | Tensor = slice(None)) -> Tensor:
        """Return the scales of all rows or some, (rows, groups), in the dtype of the layer."""
        if self.scheme.scale_bits == 16:
            return self.scale[rows]
        return expanded_scales(self.scale_codes[rows], self.row_scale[rows])

    def set_scales(self, scales: Tensor) -> None:
        """Set the scales, (out features, groups), as they are stored."""
        if self.scheme.scale_bits == 16:
            self.scale.copy_(scales)
        else:
            codes, unit = scale_codes(scales)
            self.scale_codes.copy_(codes)
            self.row_scale.copy_(unit)

    @property
    def scale_parameter(self) -> nn.Parameter:
        """What of the scales can be trained."""
        return self.scale if self.scheme.scale_bits == 16 else self.row_scale

    @property
    def by_rows(self) -> list[Tensor]:
        """The tensors that have a row for each output, without the bias: codes first, then what scales are made of."""
        if self.scheme.scale_bits == 16:
            return [self.codes, self.scale]
        return [self.codes, self.scale_codes, self.row_scale]

    def forward(self, inputs: Tensor, rows: slice | None = None) -> Tensor:
        """Map (..., in features) to (..., out features), or to those outputs that ``rows`` are."""
        if rows is not None:
            return self._some(inputs, rows)
        if kernels.serves(inputs, self.scale_parameter, self.scheme, self.out_features):
            if torch.compiler.is_compiling():
                given = self.bias, self.scheme.bits, self.scheme.group
                return cast(Tensor, kernels.product_in_graph(inputs, self.codes, self.by_rows[1:], *given))
            if kernels.are_few(inputs):
                outputs = self._product_of_few_bits(inputs)
                return outputs if self.bias is None else outputs + self.bias
        return kernels.full_product(inputs, self.codes, self.scales(), self.scheme, self.bias)

    def _some(self, inputs: Tensor, rows: slice) -> Tensor:
        """Return some of the outputs, (..., those that ``rows`` are)."""
        codes, scale = self.codes[rows], self.scales(rows)
        bias = None if self.bias is None else self.bias[rows]
        few = not torch.compiler.is_compiling() and kernels.are_few(inputs)
        if few and self.scheme.bits == 8 and kernels.serves(inputs, self.scale_parameter, self.scheme, len(codes)):
            outputs = kernels.multiply_8_bit(inputs, kernels.aligned(codes), scale)
            return outputs if bias is None else outputs + bias
        codes = unpack(codes, self.scheme.bits, self.in_features)
        return functional.linear(inputs, from_codes(codes, scale, self.scheme).to(inputs.dtype), bias)

    def _product_of_few_bits(self, inputs: Tensor) -> Tensor:
        if self.scheme.bits == 8:
            self.codes = kernels.aligned(self.codes)
            return kernels.multiply_8_bit(inputs, self.codes, self.scales())
        # Another order of the same bits, made at the first run and held beside them until they change.
        state = tuple((tensor.data_ptr(), tensor._version) for tensor in self.by_rows)
        if self._packed is None or self._packed[0] != state:
            self._packed = state, kernels.pack_for_product(self._codes(), self.scales(), self.scheme.bits)
        return kernels.multiply_packed(inputs, self._packed[1], self.scheme.group_size(self.in_features))

    def __getstate__(self) -> dict[str, Any]:
        """Return what is copied: not what can be made again."""
        return {**self.__dict__, "_packed": None}

    @property
    def weight(self) -> Tensor:
        """The numbers that the codes stand for, (out features, in features), in the dtype of the scales.

        A new tensor: writing to it changes nothing.
        """
        return from_codes(self._codes(), self.scales(), self.scheme)

    def dense_weight(self) -> Tensor:
        """Return :attr:`weight` in float64, detached."""
        return from_codes(self._codes(), self.scales().detach().double(), self.scheme)

    def to_dense(self) -> nn.Module:
        """Return a layer of the replaced class with those numbers."""
        return dense_like(self.replaced, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Return what ``print(model)`` shows."""
        group = "" if self.scheme.group is None else f", group={self.scheme.group_size(self.in_features)}"
        return f"in_features={self.in_features}, out_features={self.out_features}, bits={self.scheme.bits}{group}"

    def _codes(self) -> Tensor:
        return unpack(self.codes, self.scheme.bits, self.in_features)
