"""Some input features as they are, and a matrix of low rank for the others (CPSVD, arXiv 2510.19385)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from eckart.layers.child import ChildShape, dense_weight_of
from eckart.layers.factored import FactoredLinear
from eckart.layers.linear import bias_vector
from eckart.layers.rows import some_outputs


class KeptColumnsLinear(FactoredLinear):
    """``y = second([first(x[others]), x[columns]])``: c columns of the weight are whole, the others have rank r.

    It takes ``r (n - c) + (r + c) m`` numbers and the index of the columns, 4 bytes each. The latents are r numbers of
    ``first`` and the c features themselves.

    Attributes:
        first: the other in features -> rank, no bias; weight (rank, in features - c).
        second: rank + c -> out features, with the bias of the replaced layer; its last c columns are those of the
            weight.
        kept: c, how many columns are whole.
        columns: (c,) int32, which, rising.
    """

    columns: Tensor

    def __init__(self, in_features: int, out_features: int, rank: int, *, columns: int = 0, **options: Any) -> None:
        self.kept = columns
        self._order: tuple[Tensor, object, Tensor] | None = None
        super().__init__(in_features, out_features, rank, **options)
        self.register_buffer("columns", torch.arange(columns, device=options.get("device"), dtype=torch.int32))

    @staticmethod
    def shapes(out_features: int, in_features: int, rank: int, columns: int = 0) -> tuple[ChildShape, ChildShape]:
        """See :meth:`FactoredLinear.shapes`.

        Args:
            out_features: m.
            in_features: n.
            rank: of what is not whole.
            columns: how many are whole.
        """
        others = in_features - columns
        if columns < 0 or others < 1:
            raise ValueError(f"of {in_features} columns 0 to {in_features - 1} are kept whole, found {columns}")
        return ChildShape(others, rank, bias=False), ChildShape(rank + columns, out_features, bias=True)

    def child_shapes(self) -> tuple[ChildShape, ChildShape]:
        """See :meth:`FactoredLinear.child_shapes`."""
        return self.shapes(self.out_features, self.in_features, self.rank, self.kept)

    @property
    def latent_width(self) -> int:
        """See :attr:`FactoredLinear.latent_width`."""
        return self.rank + self.kept

    def encode(self, inputs: Tensor) -> Tensor:
        """See :meth:`FactoredLinear.encode`."""
        if not self.kept:
            return super().encode(inputs)
        order = self._inputs_in_order()
        # On a CPU this takes a third of the time of `index_select` along the last dimension.
        ordered = inputs.gather(-1, order.expand(inputs.shape))
        others, whole = torch.split(ordered, [self.in_features - self.kept, self.kept], dim=-1)
        latents: Tensor = self.first(others)
        return torch.cat([latents, whole.to(latents.dtype)], dim=-1)

    def decode(self, latents: Tensor, rows: slice | None = None) -> Tensor:
        """See :meth:`FactoredLinear.decode`."""
        return some_outputs(self.second, latents, rows)

    @property
    def weight(self) -> Tensor:
        """See :attr:`FactoredLinear.weight`."""
        return self._whole(self.second.weight, self.first.weight)

    def dense_weight(self) -> Tensor:
        """See :meth:`FactoredLinear.dense_weight`."""
        return self._whole(dense_weight_of(self.second), dense_weight_of(self.first))

    def dense_bias(self) -> Tensor | None:
        """See :meth:`FactoredLinear.dense_bias`."""
        return bias_vector(self.second)

    def index_problem(self) -> str | None:
        """See :meth:`FactoredLinear.index_problem`."""
        if self.columns.is_meta:
            return None
        columns = self.columns.long()
        inside = bool(((columns >= 0) & (columns < self.in_features)).all())
        if inside and bool((columns[1:] > columns[:-1]).all()):
            return None
        return f"does not name {self.kept} of its {self.in_features} inputs in rising order"

    def extra_repr(self) -> str:
        """Return what ``print(model)`` shows."""
        return f"{super().extra_repr()}, columns={self.kept}"

    def __getstate__(self) -> dict[str, Any]:
        """Return what is copied: not what can be made again."""
        return {**self.__dict__, "_order": None}

    def _whole(self, second: Tensor, first: Tensor) -> Tensor:
        """Return the weight, (m, n), of the numbers of both children."""
        product = second[:, : self.rank] @ first
        if not self.kept:
            return product
        return torch.cat([product, second[:, self.rank :]], dim=1)[:, self._inputs_in_order().argsort()]

    def _inputs_in_order(self) -> Tensor:
        """Return the in features, the others first and then those that are kept, (in features,) int64."""
        if torch.compiler.is_compiling():
            return input_order(self.columns, self.in_features)
        # Sorting takes longer than the product of one token. PyTorch does not count for tensors of inference mode.
        columns = self.columns
        state = columns.data_ptr(), 0 if columns.is_inference() else columns._version
        # The index is held too, so that no other tensor can come to lie in its place.
        if self._order is None or self._order[0] is not columns or self._order[1] != state:
            self._order = columns, state, input_order(columns, self.in_features)
        return self._order[2]


def input_order(columns: Tensor, in_features: int) -> Tensor:
    """Return all in features, (in features,) int64: those that are not among ``columns`` first, rising, then these.

    Args:
        columns: (c,) whole numbers, rising.
        in_features: how many there are.
    """
    kept = torch.zeros(in_features, dtype=torch.int8, device=columns.device)
    # No `nonzero`: its size would depend on the numbers, which graphs are not compiled for.
    return kept.index_fill(0, columns.long(), 1).argsort(stable=True)
