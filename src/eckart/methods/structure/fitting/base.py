"""What every structure's fitter answers: which numbers a layer gets for a low-rank weight. Written for two factors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn

from eckart.layers import FactoredLinear, bias_vector, dense_weight_of, fill_child, weight_matrix
from eckart.maths.lowrank import Solution, refit, solve, truncate
from eckart.maths.whitening import Whitening
from eckart.methods.precision import Bits16, Precision
from eckart.methods.structure.fitting.fit import Fit

AnyLayer = TypeVar("AnyLayer", bound=FactoredLinear)
MODEL_DTYPE = Bits16()


class Laid(Protocol):
    """What a fitter asks of the structure that it is of, which imports it and not the other way round.

    See :class:`eckart.methods.structure.Structure`.
    """

    @property
    def amplifies(self) -> bool:
        """Whether rounding in 16 bits loses enough to be made up for."""
        ...

    def empty_like(self, linear: nn.Module, rank: int, precision: Precision, *, affine: bool = False) -> FactoredLinear:
        """Return the layer that takes the place of ``linear``, its numbers not yet set."""
        ...


@dataclass(frozen=True)
class Arrangement:
    """How a weight (m, n) of rank r is split.

    Attributes:
        first: (r, n).
        second: (k, r); its product with ``first`` is rows of the weight.
        second_rows: which, (k,).
        first_rows: those that ``first`` itself is, (r,); None if it is none.
    """

    first: Tensor
    second: Tensor
    second_rows: Tensor
    first_rows: Tensor | None = None


class Fitter(Generic[AnyLayer]):
    """Makes the layers of one structure. As it is here it serves layers that are two factors.

    Attributes:
        structure: of the layers.
    """

    def __init__(self, structure: Laid) -> None:
        self.structure = structure

    def remainder(self, weight: Tensor, whitening: Whitening) -> Tensor:
        """Return what of a weight its rank has to answer for, (m, n) float64: all of it, unless it is stored beside.

        Args:
            weight: (m, n) float64.
            whitening: the root of the second moment of its inputs.
        """
        return weight

    def truncated(self, solution: Solution, rank: int, tokens: float) -> tuple[Tensor, Tensor]:
        """Return ``second`` (m, rank) and ``first`` (rank, n) float64 whose product is the best weight of that rank.

        Args:
            solution: of the equation.
            rank: r.
            tokens: over which the sums in the equation are; 1 if it looks at no data.
        """
        return truncate(solution, rank)

    def factored(
        self,
        linear: nn.Module,
        second: Tensor,
        first: Tensor,
        stored: torch.dtype | None = None,
        precision: Precision = MODEL_DTYPE,
        fit: Fit | None = None,
    ) -> AnyLayer:
        """Return the layer that takes the place of ``linear`` with the weight ``second @ first``.

        Args:
            linear: gives its bias, device and dtype.
            second: (m, rank), any float dtype.
            first: (rank, n), any float dtype.
            stored: dtype of what is stored in 16 bits; by default that of ``linear``.
            precision: of all matrices that have none of their own.
            fit: what the layer is made for; None to round to what is nearest.
        """
        layer = self.empty_like(linear, len(first), precision, fit)
        used = fit if self.feeds_back(precision) else None
        self.set_factors(layer, second.detach().double(), first.detach().double(), stored, used)
        set_bias(layer, linear, stored, fit)
        return layer

    def fitted(
        self, linear: nn.Module, rank: int, stored: torch.dtype | None, precision: Precision, fit: Fit
    ) -> AnyLayer:
        """Return the layer of that rank that is nearest to ``fit``; arguments as for :meth:`factored`."""
        solution = (fit.solver or solve)(fit.whitening, None, fit.target, fit.metric, rank)
        return self.factored(linear, *truncate(solution, rank), stored, precision, fit)

    def product(self, rank: int, fit: Fit) -> Tensor:
        """Return the weight, (m, n) float64, of a layer of that rank before its numbers are rounded or fitted again.

        Args:
            rank: of the layer.
            fit: what the layer is made for.
        """
        second, first = truncate((fit.solver or solve)(fit.whitening, None, fit.target, fit.metric, rank), rank)
        return second @ first

    def feeds_back(self, precision: Precision) -> bool:
        """Return whether what rounding loses is made up for."""
        return precision.feeds_back or (self.structure.amplifies and precision.scheme is None)

    def empty_like(self, linear: nn.Module, rank: int, precision: Precision, fit: Fit | None) -> AnyLayer:
        """Return the layer that takes the place of ``linear``, its numbers not yet set."""
        affine = fit is not None and fit.constant is not None
        return cast(AnyLayer, self.structure.empty_like(linear, rank, precision, affine=affine))

    def set_factors(
        self, layer: AnyLayer, second: Tensor, first: Tensor, stored: torch.dtype | None = None, fit: Fit | None = None
    ) -> None:
        """Set the weights of a layer's children, rounded to those that will be stored.

        Args:
            layer: is changed in place.
            second: (out features, rank) float64.
            first: (rank, in features) float64.
            stored: dtype of 16-bit numbers; by default that of the layer.
            fit: with it, what rounding the first factor loses is made up for by the second.
        """
        sizes = None
        if fit is not None:
            inner = first @ fit.second_moment @ first.T
            sizes = ((second @ inner) * second).sum(dim=1).clamp_min(0).sqrt()
        split = self.arrange(second, first, sizes)
        fill_child(layer.first, split.first, None, stored, None if fit is None else fit.second_moment)
        kept, moment = split.second, None
        if fit is not None:
            held = dense_weight_of(layer.first)
            # In 16 bits nothing but the rounding is made up for: the product is what was asked for.
            target = (second @ first if layer.scheme is None else fit.target)[split.second_rows]
            kept = refit(kept, held, target, fit.second_moment)
            moment = held @ fit.second_moment @ held.T
        fill_child(layer.second, kept, None, stored, moment)
        self.set_rows(layer, split)

    def arrange(self, second: Tensor, first: Tensor, sizes: Tensor | None = None) -> Arrangement:
        """Split ``second @ first`` as the layer holds it.

        Args:
            second: (m, r) float64.
            first: (r, n) float64.
            sizes: of the outputs, (m,); None if they are not known.
        """
        return Arrangement(first, second, torch.arange(len(second), device=second.device))

    def set_rows(self, layer: AnyLayer, arrangement: Arrangement) -> None:
        """Let the layer remember which output is where, if they are not in order."""


class TargetFitter(Fitter[AnyLayer]):
    """Finds a layer for the target alone: of factors only the rank counts, since what is beside them changes them."""

    def factored(
        self,
        linear: nn.Module,
        second: Tensor,
        first: Tensor,
        stored: torch.dtype | None = None,
        precision: Precision = MODEL_DTYPE,
        fit: Fit | None = None,
    ) -> AnyLayer:
        """See :meth:`Fitter.factored`."""
        if fit is None:  # all inputs weigh the same
            target = second.detach().double() @ first.detach().double()
            fit = Fit(target, Whitening.identity(target.shape[1], target.device))
        return self.fitted(linear, len(first), stored, precision, fit)


def set_bias(
    layer: FactoredLinear, linear: nn.Module, stored: torch.dtype | None = None, fit: Fit | None = None
) -> None:
    """Set the bias of a layer to that of the linear and the constant of ``fit``, if there are any.

    Args:
        layer: with its weights set; is changed in place.
        linear: that it replaces.
        stored: dtype that biases will be saved in; by default that of ``linear``.
        fit: may have a constant.
    """
    bias = bias_vector(linear)
    total = None if bias is None else bias.detach().double()
    if fit is not None and fit.constant is not None:
        added = fit.constant(layer.dense_weight())
        total = added if total is None else total.to(added) + added
    if total is not None:
        with torch.no_grad():
            layer.set_bias(total, stored or weight_matrix(linear).dtype)
