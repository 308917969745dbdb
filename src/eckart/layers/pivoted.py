"""Rows of the weight itself, and the others as combinations of them (PIFA, arXiv 2501.19090)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from eckart.layers.child import ChildShape, dense_weight_of
from eckart.layers.factored import FactoredLinear
from eckart.layers.linear import bias_vector
from eckart.layers.rows import some_outputs


class PivotedLinear(FactoredLinear):
    """``p = first(x)`` are r of the outputs; ``second(p)`` are the other m - r; an index puts them in order.

    It takes r (m + n - r) numbers where two factors of the same rank take r (m + n).

    Attributes:
        first: in features -> rank; weight (rank, in features), rows of the weight; with their biases.
        second: rank -> out features - rank; its bias is what the combined rows need beyond that of the pivots.
        index: (out features,) whole numbers: the place of each output in ``[p, second(p)]``; None for their own.
    """

    index: Tensor | None

    def __init__(self, in_features: int, out_features: int, rank: int, **options: Any) -> None:
        super().__init__(in_features, out_features, rank, **options)
        index = torch.arange(out_features, device=options.get("device"), dtype=index_dtype(out_features))
        self.register_buffer("index", index)

    @staticmethod
    def shapes(out_features: int, in_features: int, rank: int) -> tuple[ChildShape, ChildShape]:
        """See :meth:`FactoredLinear.shapes`."""
        others = out_features - rank
        if others < 1:
            raise ValueError(f"a pivoted layer of {out_features} outputs has a rank below that, found {rank}")
        return ChildShape(in_features, rank, bias=True), ChildShape(rank, others, bias=True)

    def set_rows(self, first_rows: Tensor, second_rows: Tensor) -> None:
        """Set the index.

        Args:
            first_rows: the outputs that ``first`` gives, (rank,).
            second_rows: those that ``second`` gives, (out features - rank,).
        """
        self.index = index = self.places()
        places = torch.cat([first_rows, second_rows]).to(index.device)
        index[places] = torch.arange(len(places), dtype=index.dtype, device=index.device)

    def set_bias(self, bias: Tensor, stored: torch.dtype) -> None:
        """Give the pivots theirs; the second child is handed that too, and its own makes up for it."""
        assert self.first.bias is not None
        assert self.second.bias is not None
        ordered = bias[self.places().long().argsort().to(bias.device)]
        self.first.bias.copy_(ordered[: self.rank].to(stored))
        passed_on = dense_weight_of(self.second).to(bias.device) @ self.first.bias.to(bias)
        self.second.bias.copy_((ordered[self.rank :] - passed_on).to(stored))

    def decode(self, latents: Tensor, rows: slice | None = None) -> Tensor:
        """See :meth:`FactoredLinear.decode`; the latents are the pivots."""
        if rows is not None:
            return self._some(latents, rows)
        outputs = torch.cat([latents, self.second(latents)], dim=-1)
        if self.index is None:
            return outputs
        # On a CPU this takes a third of the time of `index_select` along the last dimension.
        return outputs.gather(-1, self.index.long().expand(outputs.shape))

    def _some(self, pivots: Tensor, rows: slice) -> Tensor:
        """Return some of the outputs, (..., those that ``rows`` are), from all pivots, (..., rank)."""
        places = self.places()[rows].long()
        combined = places[places >= self.rank] - self.rank
        if not len(combined):
            return pivots[..., places]
        # Neighbours in the output are neighbours in ``second``, unless somebody has put them in another order.
        start, end = int(combined.min()), int(combined.max()) + 1
        outputs = torch.cat([pivots, some_outputs(self.second, pivots, slice(start, end))], dim=-1)
        return outputs[..., torch.where(places < self.rank, places, places - start)]

    @property
    def weight(self) -> Tensor:
        """See :attr:`FactoredLinear.weight`."""
        first = self.first.weight
        return self._in_order(torch.cat([first, self.second.weight @ first]))

    def dense_weight(self) -> Tensor:
        """See :meth:`FactoredLinear.dense_weight`."""
        first, second = self.first.weight.detach().double(), self.second.weight.detach().double()
        return self._in_order(torch.cat([first, second @ first]))

    def dense_bias(self) -> Tensor | None:
        """See :meth:`FactoredLinear.dense_bias`."""
        first, second = bias_vector(self.first), bias_vector(self.second)
        if first is None or second is None:
            return None
        dtype, first, second = first.dtype, first.detach().double(), second.detach().double()
        passed_on = self.second.weight.detach().double() @ first
        return self._in_order(torch.cat([first, passed_on + second])).to(dtype)

    def index_problem(self) -> str | None:
        """See :meth:`FactoredLinear.index_problem`."""
        if self.places().is_meta or self.has_valid_index():
            return None
        return f"does not name each of its {self.out_features} outputs once"

    def has_valid_index(self) -> bool:
        """Return whether the index names every output once."""
        return self.index is None or bool(torch.equal(self.index.sort().values, self._order()))

    def places(self) -> Tensor:
        """Return the index, also where none is held."""
        return self._order() if self.index is None else self.index

    def drop_index_in_order(self) -> bool:
        """Forget an index that leaves all outputs where they are; return whether none is held now."""
        if self.index is not None and torch.equal(self.index, self._order()):
            self.index = None
        return self.index is None

    def _order(self) -> Tensor:
        device = self.index.device if self.index is not None else next(self.parameters()).device
        return torch.arange(self.out_features, dtype=index_dtype(self.out_features), device=device)

    def _in_order(self, rows: Tensor) -> Tensor:
        return rows if self.index is None else rows.index_select(0, self.index.int())


def index_dtype(out_features: int) -> torch.dtype:
    """Return the smallest dtype that holds the places of so many outputs."""
    return torch.int16 if out_features <= torch.iinfo(torch.int16).max + 1 else torch.int32
