"""A linear layer of whose numbers any may be zero; zeros are not stored."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from eckart.layers.packed import PackedLinear
from eckart.maths.sparsity import mask_width, pack_mask, unpack_mask


class MaskedLinear(PackedLinear):
    """``y = W x + b`` with some numbers of W, and a bit for each place that says whether its number is there.

    Attributes:
        values: (numbers,), those that are there, row by row, in the dtype of the layer.
        mask: (out features, in features / 8 rounded up) uint8, a bit a place.
        bias: (out features,) or None.
    """

    holds_unpacked = True
    mask: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        numbers: int,
        *,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= numbers <= in_features * out_features:
            raise ValueError(f"a weight of {out_features} x {in_features} cannot have {numbers} numbers")
        self.in_features, self.out_features = in_features, out_features
        self.values = nn.Parameter(torch.zeros(numbers, device=device, dtype=dtype))
        self.register_buffer(
            "mask", torch.zeros(out_features, mask_width(in_features), device=device, dtype=torch.uint8)
        )
        self.register_parameter(
            "bias", nn.Parameter(torch.zeros(out_features, device=device, dtype=dtype)) if bias else None
        )

    @torch.no_grad()
    def set_numbers(self, weight: Tensor, stored: torch.dtype | None = None) -> None:
        """Set the numbers to those of a weight that are largest; of one with as many numbers as there are, to all.

        Args:
            weight: (out features, in features).
            stored: dtype that they are rounded to; by default that of the layer.
        """
        flat = weight.flatten()
        places = flat.abs().topk(len(self.values)).indices.sort().values
        mask = torch.zeros(len(flat), dtype=torch.bool, device=flat.device)
        mask[places] = True
        self.mask.copy_(pack_mask(mask.view_as(weight)))
        self.values.copy_(flat[places].to(stored or self.values.dtype))

    @property
    def weight(self) -> Tensor:
        """The weight with its zeros, (out features, in features), a new tensor: writing to it changes nothing."""
        mask = unpack_mask(self.mask, self.in_features)
        return self.values.new_zeros(mask.shape).masked_scatter(mask, self.values)

    def packed(self) -> tuple[Tensor, ...]:
        """See :meth:`PackedLinear.packed`."""
        return self.values, self.mask

    def has_valid_mask(self) -> bool:
        """Return whether the mask has a place for each number."""
        return int(unpack_mask(self.mask, self.in_features).sum()) == len(self.values)

    def extra_repr(self) -> str:
        """Return what ``print(model)`` shows."""
        return f"in_features={self.in_features}, out_features={self.out_features}, numbers={len(self.values)}"
