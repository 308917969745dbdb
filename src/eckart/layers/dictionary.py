"""Rows of a weight as sparse combinations of atoms (ROCKET, arXiv 2602.11008; COMPOT, arXiv 2602.15200)."""

from __future__ import annotations

from typing import Any

from eckart.layers.child import ChildShape, Mask, Pattern
from eckart.layers.masked import MaskedLinear
from eckart.layers.packed import PackedLinear
from eckart.layers.two_factor import LowRankLinear


class DictionaryLinear(LowRankLinear):
    """``y = second(first(x))`` with k atoms, the rows of ``first``, of which each output combines some.

    Of ``second`` only the numbers that are there are stored, and where they are: half of them in 2 of 4 places
    (:class:`eckart.layers.SparseLinear`), or any (:class:`eckart.layers.MaskedLinear`). No kernel for sparse products
    is used: zeros of ``second`` are multiplied like other numbers, so that a layer runs as two factors of rank k do.
    To run, ``second`` is unpacked once and held: that takes the memory of all its numbers beside those that are stored,
    and what is saved is bytes on the disk. The latents are the k products with atoms.

    Attributes:
        first: in features -> k, no bias; weight (k, in features).
        second: k -> out features, sparse, with the bias of the replaced layer.
    """

    def __init__(
        self, in_features: int, out_features: int, rank: int, *, pattern: Pattern | Mask, **options: Any
    ) -> None:
        self.pattern = pattern
        super().__init__(in_features, out_features, rank, **options)
        assert isinstance(self.second, PackedLinear)
        self.second.holds_unpacked = True

    def child_shapes(self) -> tuple[ChildShape, ChildShape]:
        """See :meth:`FactoredLinear.child_shapes`."""
        first, second = self.shapes(self.out_features, self.in_features, self.rank)
        return first, second._replace(scheme=self.pattern)

    def index_problem(self) -> str | None:
        """See :meth:`FactoredLinear.index_problem`."""
        second = self.second
        if not isinstance(second, MaskedLinear) or second.mask.is_meta or second.has_valid_mask():
            return None
        return f"does not name a place for each of its {len(second.values)} numbers"
