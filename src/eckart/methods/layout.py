"""What a linear layer costs and what it becomes: a structure whose matrices are stored in some precision."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from eckart.errors import RecipeError
from eckart.layers import FactoredLinear, QuantizedLinear, bias_vector, fill_child
from eckart.methods.precision import AnyBase, Bits16, Precision
from eckart.methods.structure import Structure, TwoFactor
from eckart.methods.structure.kept import Kept, Side

if TYPE_CHECKING:
    from eckart.methods.structure.fitting import Fit

BYTES_PER_NUMBER = 2  # `keep` counts in 16-bit numbers, whatever dtype a model is held in while it is compressed


def dense_bytes(out_features: int, in_features: int) -> int:
    """Return the bytes of a dense weight in 16-bit numbers."""
    return BYTES_PER_NUMBER * out_features * in_features


@dataclass(frozen=True)
class Layout:
    """How the linears of a model are stored. None in place of a rank stands for a weight that is not factored.

    Attributes:
        structure: of a weight of low rank.
        precision: of all numbers, of weights that are not factored too.
        affine: whether every factored linear has a bias; its bytes are counted.
        whole: precision of weights that are not factored, if it is another one.

    Raises:
        RecipeError: the structure has a precision of its own, and another one is asked for.
    """

    structure: Structure = field(default_factory=TwoFactor)
    precision: Precision = field(default_factory=Bits16)
    affine: bool = False
    whole: Precision | None = None

    @property
    def unfactored_precision(self) -> Precision:
        """How a weight is stored that is not factored."""
        return self.whole or self.precision

    def based_on(self, base: AnyBase) -> Layout:
        """Return the layout of a hybrid with that base, and of the base alone in place of a weight without factors."""
        return replace(self, structure=self.structure.model_copy(update={"base": base}), whole=base)

    def with_columns(self, columns: int | None) -> Layout:
        """Return the layout of a layer that keeps so many input columns whole; None where its structure keeps none."""
        return self if columns is None else replace(self, structure=self.structure.with_columns(columns))

    def with_sparsity(self, sparsity: float | None) -> Layout:
        """Return the layout of a layer in which one in so many numbers is there; None for as many as in all layers."""
        return self if sparsity is None else replace(self, structure=self.structure.with_sparsity(sparsity))

    def keeping(self, side: Side, *, direct: bool) -> Layout:
        """Return the layout of a linear of which some outputs or inputs are kept."""
        return replace(self, structure=Kept(side=side, direct=direct))

    def beside_bias(self, has_bias: bool) -> Layout:
        """Return the layout by which the bytes of a linear are counted that has a bias already, or has none.

        A bias that was there before is in neither the dense bytes nor the stored ones.
        """
        return replace(self, affine=False) if has_bias and self.affine else self

    def __post_init__(self) -> None:
        if self.structure.own_precision and self.precision.scheme is not None:
            raise RecipeError(
                f"Structure {self.structure.name!r} says itself in how many bits its numbers are; found precision "
                f"{self.precision.name!r} beside it. Use precision=16-bit, or structure=two-factor for fewer bits."
            )

    def bytes(self, out_features: int, in_features: int, rank: int | None) -> int:
        """Return the stored bytes of a weight of ``rank``; they rise with it."""
        if rank is None:
            return self.unfactored_precision.bytes(out_features, in_features)
        matrices = self.structure.matrices(out_features, in_features, rank)
        numbers = sum((m.precision or self.precision).bytes(m.rows, m.columns) for m in matrices)
        bias = BYTES_PER_NUMBER * out_features if self.affine else 0
        return numbers + bias + self.structure.index_bytes_at(out_features, in_features, rank)

    def highest_rank(self, out_features: int, in_features: int) -> int:
        """Return the largest rank that can be laid out so; 0 if none can."""
        return self.structure.highest_rank(out_features, in_features)

    def largest_rank(self, out_features: int, in_features: int, budget: int) -> int | None:
        """Return the largest rank whose factors take at most ``budget`` bytes and fewer than the weight itself.

        At least 1. None where the weight itself is within the budget, or where not even rank 1 would save anything.
        """
        whole = self.bytes(out_features, in_features, None)
        if budget >= whole:
            return None
        low, high = 0, self.highest_rank(out_features, in_features)
        if high == 0 or self.bytes(out_features, in_features, 1) >= whole:
            return None
        while low < high:  # `low` is within the budget, all above `high` are not
            middle = (low + high + 1) // 2
            if self.bytes(out_features, in_features, middle) <= budget:
                low = middle
            else:
                high = middle - 1
        return max(low, 1)

    def rank_of_share(self, out_features: int, in_features: int, share: float) -> int | None:
        """Return the largest rank whose factors take at most ``share`` of the dense 16-bit bytes.

        None where the weight itself takes no more than that.
        """
        # The floor must not fall one byte short because 0.6 * 10 is 5.999... in binary.
        budget = math.floor(share * dense_bytes(out_features, in_features) + 1e-6)
        return self.largest_rank(out_features, in_features, budget)

    def empty_like(self, linear: nn.Module, rank: int | None) -> nn.Module:
        """Return the layer that takes the place of ``linear``, its numbers not yet set."""
        if rank is not None:
            return self.structure.empty_like(linear, rank, self.precision, affine=self.affine)
        scheme = self.unfactored_precision.scheme
        return linear if scheme is None else QuantizedLinear.empty_like(linear, scheme)

    def changes(self, rank: int | None) -> bool:
        """Return whether a linear of that rank becomes another layer."""
        return rank is not None or self.unfactored_precision.scheme is not None

    @property
    def looks_at_inputs(self) -> bool:
        """Whether a layer's numbers depend on the inputs beyond its factors: on how rounding them is made up for."""
        few_bits = self.precision.scheme is not None or self.unfactored_precision.scheme is not None
        return self.affine or few_bits or not self.structure.rounds_to_nearest

    def factored(
        self, linear: nn.Module, second: Tensor, first: Tensor, stored: torch.dtype, fit: Fit
    ) -> FactoredLinear:
        """Return the layer that takes the place of ``linear`` with the weight ``second @ first``.

        Args:
            linear: gives its bias, device and dtype.
            second: (out features, rank) float64.
            first: (rank, in features) float64.
            stored: dtype of what is stored in 16 bits.
            fit: what the layer is made for; the loss of rounding is made up for by it, if the precision does that.
        """
        layer: FactoredLinear = self.structure.fitter.factored(linear, second, first, stored, self.precision, fit)
        return layer

    def fitted(self, linear: nn.Module, rank: int, stored: torch.dtype, fit: Fit) -> FactoredLinear:
        """Return the layer of that rank that takes the place of ``linear``, as near to ``fit`` as can be.

        Args:
            linear: gives its bias, device and dtype.
            rank: of the layer.
            stored: as for :meth:`factored`.
            fit: what the layer is made for.
        """
        layer: FactoredLinear = self.structure.fitter.fitted(linear, rank, stored, self.precision, fit)
        return layer

    def unfactored(self, linear: nn.Module, weight: Tensor, stored: torch.dtype, fit: Fit) -> QuantizedLinear:
        """Return the layer that takes the place of ``linear`` if it is not factored, for a precision below 16 bits.

        Args:
            linear: gives its bias, device and dtype.
            weight: (out features, in features) float64.
            stored: dtype of scales and bias.
            fit: as for :meth:`factored`.
        """
        precision = self.unfactored_precision
        assert precision.scheme is not None
        layer = QuantizedLinear.empty_like(linear, precision.scheme)
        moment = fit.second_moment if precision.feeds_back else None
        metric = fit.output_moment if precision.two_sided else None
        fill_child(layer, weight, bias_vector(linear), stored, moment, metric, precision.sweeps)
        return layer
