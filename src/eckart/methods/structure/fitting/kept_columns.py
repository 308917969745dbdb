"""Which columns stay whole, how much rank they are worth, and the factors of the others (CPSVD, arXiv 2510.19385)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from eckart.layers import KeptColumnsLinear, dense_weight_of, fill_child
from eckart.maths.kept_columns import golden_section, others_of, rank_columns, root_of_others, tail
from eckart.maths.lowrank import refit, solve, truncate
from eckart.maths.whitening import FLOAT32_FLOOR, blockwise, whiten
from eckart.methods.precision import Precision
from eckart.methods.structure.fitting.base import Laid, TargetFitter, set_bias
from eckart.methods.structure.fitting.fit import Fit

if TYPE_CHECKING:
    from eckart.methods.structure.base import Matrix


class LaidKeptColumns(Laid, Protocol):
    """What is asked of :class:`eckart.methods.structure.KeptColumns`."""

    @property
    def columns(self) -> int | None:
        """How many columns are whole; None to search."""
        ...

    @property
    def refit(self) -> bool:
        """Whether columns make up for what the others lose."""
        ...

    @property
    def gain(self) -> float:
        """Share by which the loss must fall for columns to be taken."""
        ...

    def matrices(self, out_features: int, in_features: int, rank: int) -> list[Matrix]:
        """Return the matrices that are stored."""
        ...

    def index_bytes(self, out_features: int) -> int:
        """Return the bytes of the index."""
        ...

    def with_columns(self, columns: int) -> LaidKeptColumns:
        """Return the structure with so many columns whole."""
        ...


@dataclass(frozen=True)
class _Parts:
    """Of a layer: the columns that are whole, rising, and the factors of the others, (m, r) and (r, n - c)."""

    columns: Tensor
    second: Tensor
    first: Tensor


class KeptColumnsFitter(TargetFitter[KeptColumnsLinear]):
    """See :class:`eckart.methods.structure.KeptColumns`."""

    structure: LaidKeptColumns

    def fitted(
        self, linear: nn.Module, rank: int, stored: torch.dtype | None, precision: Precision, fit: Fit
    ) -> KeptColumnsLinear:
        """See :meth:`Fitter.fitted`."""
        columns, rank = self._columns(rank, precision, fit)
        parts = self._parts(columns, rank, fit)
        laid = self.structure.with_columns(len(columns))
        affine = fit.constant is not None
        layer = laid.empty_like(linear, rank, precision, affine=affine)
        assert isinstance(layer, KeptColumnsLinear)
        layer.columns.copy_(columns)
        self._set(layer, parts, fit, stored, feedback=self.feeds_back(precision))
        set_bias(layer, linear, stored, fit)
        return layer

    def most_columns(self, shape: tuple[int, int], rank: int, given_up: int, precision: Precision) -> int:
        """Return how many columns the bytes of some ranks have room for.

        Args:
            shape: (m, n) of the weight.
            rank: r, before.
            given_up: of its ranks.
            precision: of the numbers.
        """
        budget = self._bytes(shape, rank, 0, precision)
        low, high = 0, min(shape[1] - (rank - given_up), shape[1] - 1)
        while low < high:
            middle = (low + high + 1) // 2
            if self._bytes(shape, rank - given_up, middle, precision) <= budget:
                low = middle
            else:
                high = middle - 1
        return low

    def _bytes(self, shape: tuple[int, int], rank: int, columns: int, precision: Precision) -> int:
        laid = self.structure.with_columns(columns)
        matrices = laid.matrices(*shape, rank)
        return sum(precision.bytes(m.rows, m.columns) for m in matrices) + laid.index_bytes(shape[0])

    def _columns(self, rank: int, precision: Precision, fit: Fit) -> tuple[Tensor, int]:
        """Return the columns that stay whole, (c,) int64 rising, and the rank that is left for the others."""
        m, n = fit.target.shape
        fixed, root = self.structure.columns, fit.whitening.root
        solution = (fit.solver or solve)(fit.whitening, None, fit.target, fit.metric, rank)
        second, first = truncate(solution, rank)
        missing, seen = fit.target - second @ first, fit.target
        if fit.metric is not None:
            missing, seen = (blockwise(fit.metric.root.mT, matrix) for matrix in (missing, seen))
        order = rank_columns(missing, root.square().sum(dim=1))
        if fixed is not None:
            return order[:fixed].sort().values, rank

        def loss(given_up: int) -> float:
            columns = order[: self.most_columns((m, n), rank, given_up, precision)]
            others = seen[:, others_of(columns, n)]
            return tail(others @ root_of_others(root, columns, moved=self.structure.refit), rank - given_up)

        given_up = golden_section(loss, rank - 1, self.structure.gain)
        count = self.most_columns((m, n), rank, given_up, precision) if given_up else 0
        return order[:count].sort().values, rank - given_up

    def _parts(self, columns: Tensor, rank: int, fit: Fit) -> _Parts:
        """Return the best factors of the other columns."""
        others = others_of(columns, fit.target.shape[1])
        if len(columns):
            root = root_of_others(fit.whitening.root, columns, moved=self.structure.refit)
            whitening = whiten(root @ root.T, floor=FLOAT32_FLOOR)
        else:
            whitening = fit.whitening
        solution = (fit.solver or solve)(whitening, None, fit.target[:, others], fit.metric, rank)
        return _Parts(columns, *truncate(solution, rank))

    def _set(
        self, layer: KeptColumnsLinear, parts: _Parts, fit: Fit, stored: torch.dtype | None, *, feedback: bool
    ) -> None:
        """Set the weights of both children; with ``feedback``, or columns that move, what was lost is made up for."""
        columns, n = parts.columns, fit.target.shape[1]
        others, moment = others_of(columns, n), None
        if feedback:
            root = root_of_others(fit.whitening.root, columns, moved=self.structure.refit)
            moment = root @ root.T
        fill_child(layer.first, parts.first, None, stored, moment)
        held = torch.zeros(layer.latent_width, n).to(parts.first)
        held[: layer.rank, others] = dense_weight_of(layer.first).to(held)
        held[torch.arange(layer.rank, layer.latent_width, device=held.device), columns] = 1
        second = torch.cat([parts.second, fit.target[:, columns]], dim=1)
        if self.structure.refit and len(columns):
            second = refit(second, held, fit.target, fit.second_moment)
        elif feedback:
            low = held[: layer.rank]
            rest = fit.target.clone()
            rest[:, columns] = 0
            moment = fit.second_moment.clone()
            moment[columns], moment[:, columns] = 0, 0
            second[:, : layer.rank] = refit(parts.second, low, rest, moment)
        fill_child(layer.second, second, None, stored, held @ fit.second_moment @ held.T if feedback else None)
