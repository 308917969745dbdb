"""A linear layer of which half the numbers are zero and not stored."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from eckart.layers.packed import PackedLinear
from eckart.maths.sparsity import from_pruned, group_count, pack_places


class SparseLinear(PackedLinear):
    """``y = W x + b`` with 2 numbers in each 4 neighbours of a row, in memory as on disk.

    Attributes:
        values: (out features, 2 groups), the numbers that stay, in the dtype of the layer; a group is 4 input features.
        places: (out features, groups / 2 rounded up) uint8: where in their group they are, 2 bits each.
        bias: (out features,) or None.
    """

    places: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        count = 2 * group_count(in_features)
        self.values = nn.Parameter(torch.zeros(out_features, count, device=device, dtype=dtype))
        first_two = torch.arange(count, device=device).remainder(2).expand(out_features, -1)
        self.register_buffer("places", pack_places(first_two))
        self.register_parameter(
            "bias", nn.Parameter(torch.zeros(out_features, device=device, dtype=dtype)) if bias else None
        )

    def packed(self) -> tuple[Tensor, ...]:
        """See :meth:`PackedLinear.packed`."""
        return self.values, self.places

    def weight_of(self, rows: slice) -> Tensor:
        """See :meth:`PackedLinear.weight_of`; no other rows are unpacked."""
        return from_pruned(self.values[rows], self.places[rows], self.in_features)

    @property
    def weight(self) -> Tensor:
        """The weight with its zeros, (out features, in features), a new tensor: writing to it changes nothing."""
        return from_pruned(self.values, self.places, self.in_features)

    def extra_repr(self) -> str:
        """Return what ``print(model)`` shows."""
        return f"in_features={self.in_features}, out_features={self.out_features}, 2-of-4"
