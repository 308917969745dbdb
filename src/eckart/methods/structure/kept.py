"""Layers of which some outputs or inputs are kept, laid out as they are: no structure that a recipe names.

The rank of such a layer is how many of them stay.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import nn

from eckart.layers.kept import KeptInputsLinear, KeptLinear, KeptOutputsLinear
from eckart.layers.pivoted import index_dtype
from eckart.methods.precision import Precision
from eckart.methods.structure.base import Matrix, Structure

Side = Literal["outputs", "inputs"]


class Kept(Structure):
    """A weight (m, n) of which r rows, or r columns, are stored.

    Attributes:
        side: which.
        direct: whether what is dropped is missing on the other side too, so that no index is stored.
    """

    name: Literal["kept"] = "kept"

    side: Side
    direct: bool = False

    def matrices(self, out_features: int, in_features: int, rank: int) -> list[Matrix]:
        """Return the one matrix."""
        return [Matrix(rank, in_features) if self.side == "outputs" else Matrix(out_features, rank)]

    def index_bytes_at(self, out_features: int, in_features: int, rank: int) -> int:
        """Return the bytes of the places of what is kept."""
        return 0 if self.direct else rank * index_numbers(out_features if self.side == "outputs" else in_features) * 2

    def highest_rank(self, out_features: int, in_features: int) -> int:
        """Return all of them."""
        return out_features if self.side == "outputs" else in_features

    def empty_like(  # type: ignore[override]  # it is no factored layer, and stands for a linear one all the same
        self, linear: nn.Module, rank: int, precision: Precision, *, affine: bool = False
    ) -> KeptLinear:
        """Return the layer with an index, its numbers not yet set; arguments as for :class:`Structure`."""
        layer: type[KeptLinear] = KeptOutputsLinear if self.side == "outputs" else KeptInputsLinear
        return layer.empty_like(linear, rank)


class Width(Structure):
    """A pair of linears as one: units (m) that each take n numbers in all of its weights, and some in indices.

    Attributes:
        index: 16-bit numbers that the places of one unit take.
    """

    name: Literal["width"] = "width"

    index: int = 0

    def matrices(self, out_features: int, in_features: int, rank: int) -> list[Matrix]:
        """Return what the units that stay take."""
        return [Matrix(rank, in_features)]

    def index_bytes_at(self, out_features: int, in_features: int, rank: int) -> int:
        """Return the bytes of their places."""
        return 2 * self.index * rank

    def highest_rank(self, out_features: int, in_features: int) -> int:
        """Return all of them."""
        return out_features

    def empty_like(self, linear: nn.Module, rank: int, precision: Precision, *, affine: bool = False) -> Any:
        """There is none: it stands for several layers."""
        raise TypeError("a pair of linears is no layer")


def index_numbers(full: int) -> int:
    """Return how many 16-bit numbers one place of so many takes."""
    return index_dtype(full).itemsize // 2
