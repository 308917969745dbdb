"""Knapsack: how many atoms each layer has, and how sparse its coefficients are, exactly (ROCKET, arXiv 2602.11008)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from eckart.blocks.blockwise_model import BlockwiseModel
from eckart.device import moment_device
from eckart.errors import EckartError
from eckart.layers import weight_matrix
from eckart.maths.lowrank import solve
from eckart.maths.stopwatch import random_matrix, seconds_of
from eckart.methods.allocation.base import Allocation, OwnMeasurement, Storage, Wanted
from eckart.methods.allocation.budgets import Budgets, rank_within
from eckart.methods.allocation.exact import best_ranks
from eckart.methods.allocation.rank_budget import Option, RankBudget, Ranks
from eckart.methods.layout import Layout
from eckart.methods.sensitivity.cost import StepSeconds
from eckart.methods.sensitivity.layer_statistics import LayerStatistics
from eckart.methods.sensitivity.measurements import Measurements
from eckart.methods.sensitivity.request import Request
from eckart.methods.structure.fitting import Fit

Share = Annotated[float, Field(gt=0.0, lt=1.0)]
AtLeastOne = Annotated[float, Field(ge=1.0)]
SHARES = (*(n / 10 for n in range(1, 10)), 0.95)
SPARSITIES = tuple(n / 10 for n in range(10, 31, 5))
CAPS = tuple(n / 10 for n in range(10, 21))
TIMED_SIDE = 512  # of matrices whose product is timed


@dataclass(frozen=True)
class Sized:
    """A size that a linear may have.

    Attributes:
        share: of its dense 16-bit bytes that was asked for.
        rank: number of atoms.
        sparsity: numbers for one that is there.
        error: relative error of the weight, or of the outputs.
    """

    share: float
    rank: int
    sparsity: float
    error: float


class Knapsack(Allocation):
    """Of a few sizes of each layer, those with the least sum of relative errors within the bytes.

    For each share of the bytes a layer is fitted with each sparsity, by the rule of its structure, and the one with the
    least error stands for that share. Which share each layer gets is a multiple-choice knapsack problem, which is
    solved exactly, in bytes, positions of the numbers included. No layer may have an error above ``c`` times the mean
    of all layers at the share that is asked for; ``c`` is the smallest of ``caps`` for which that leaves a choice, or
    infinite. A layer may stay dense, without an error; the paper's code drops that choice. What is fitted is the
    original model's weight, without the refits of the structure, which the paper does not have. Where the budget is to
    be filled, layers get more atoms at their sparsity, those first whose errors fall fastest between two shares.

    For structures whose sparsity may differ: ``dictionary`` with the pattern ``any``.

    Attributes:
        shares: of the dense 16-bit bytes. As published they are 0.3, 0.35, ... 0.95.
        sparsities: numbers for one that is there. As published they are 1.0, 1.1, ... 3.0. A layer is fitted once for
            each share and each of these: 294 times as published, which by the time of single fits is about two hours of
            one core for a model of 135 million parameters, and 50 times by default.
        error: ``plain``: ``||W - W'|| / ||W||`` as published; ``white``: ``||(W - W') X|| / ||W X||``, in the metric of
            the objective, which the fit minimises. It takes no longer, and is not published.
        caps: on an error, in mean errors; empty for none.
    """

    name: Literal["knapsack"] = "knapsack"
    chooses_sparsities: ClassVar[bool] = True

    shares: tuple[Share, ...] = Field(SHARES, min_length=1)
    sparsities: tuple[AtLeastOne, ...] = Field(SPARSITIES, min_length=1)
    error: Literal["plain", "white"] = "plain"
    caps: tuple[AtLeastOne, ...] = CAPS

    @model_validator(mode="after")
    def _rules_that_it_has(self) -> Self:
        if self.floor:
            raise ValueError("allocation knapsack has no floor; its smallest sizes are the smallest of its shares")
        return self

    @property
    def needs_data(self) -> bool:
        """Only what the objective looks at is looked at."""
        return False

    @property
    def own_measurement(self) -> OwnMeasurement:
        """See :attr:`Allocation.own_measurement`."""
        return OwnMeasurement.ONCE

    def ask(self, request: Request) -> Request:
        """Keep the moments of inputs, if the objective looks at any."""
        return replace(super().ask(request), keep_moments=request.objective.needs_data)

    def measure(self, model: BlockwiseModel, measured: Measurements, wanted: Wanted) -> Measurements:
        """Fit each linear at each share with each sparsity; a linear's best for each share are kept as a list."""
        known = {linear.path: linear for linear in measured.linears}
        objective, device = wanted.request.objective, moment_device(model.device)
        for number, block in enumerate(model.blocks):
            with model.onload(number):
                for group in block.groups:
                    first = group.linears[0]
                    moments = measured.moments[first.path] if objective.needs_data else None
                    whitening = objective.whitening(moments, first.in_features, device)
                    for ref in group.linears:
                        weight = weight_matrix(block.module.get_submodule(ref.name)).detach().to(device, torch.float64)
                        chosen, root = objective.output_metric, None
                        if chosen is not None:
                            root = chosen.root(measured.metrics[ref.path].to(device, torch.float64))
                        layout = wanted.layout.beside_bias(ref.has_bias)
                        known[ref.path] = replace(known[ref.path], own=self.sizes(Fit(weight, whitening, root), layout))
            wanted.progress(number + 1, len(model.blocks))
        return replace(measured, linears=tuple(known[linear.path] for linear in measured.linears))

    def sizes(self, fit: Fit, layout: Layout) -> list[Sized]:
        """Return the best size of a linear for each share that saves bytes, shares rising.

        Args:
            fit: the weight, and what its errors cost.
            layout: of the linear; its sparsity does not count.
        """
        shape = (fit.target.shape[0], fit.target.shape[1])
        solution = solve(fit.whitening, None, fit.target)  # the same for all of them
        fit = replace(fit, solver=lambda *given: solution)
        best: list[Sized] = []
        for share in sorted(self.shares):
            found = []
            for sparsity in self.sparsities:
                sparse = layout.with_sparsity(sparsity)
                rank = sparse.rank_of_share(*shape, share) or 0
                rank -= rank % self.multiple
                if rank and sparse.bytes(*shape, rank) <= share * 2 * shape[0] * shape[1]:
                    product = sparse.structure.fitter.product(rank, fit)
                    found.append(Sized(share, rank, sparsity, self.error_of(product, fit)))
            if found:
                best.append(min(found, key=lambda size: size.error))
        return best

    def error_of(self, product: Tensor, fit: Fit) -> float:
        """Return the relative error of a weight, (m, n); 0 where there is nothing to lose."""
        if self.error == "plain":
            lost, whole = float((fit.target - product).norm()), float(fit.target.norm())
        else:
            lost, whole = (math.sqrt(max(fit.loss(w), 0.0)) for w in (product, torch.zeros_like(product)))
        return lost / whole if whole > 0 else 0.0

    def own_seconds(self, steps: StepSeconds) -> float:
        """Return the seconds of all fits by ROCKET's rule, with half as many atoms as there can be."""
        matrix = random_matrix(TIMED_SIDE, TIMED_SIDE).to(moment_device(steps.device)).double()
        once = seconds_of(lambda: matrix @ matrix, steps.device) / TIMED_SIDE**3
        fits = 2 * len(self.shares) * len(self.sparsities)  # sorting coefficients takes as long as the products do
        of_block = sum(m * k * (k + 3 * n) + k**3 for m, n in steps.shapes for k in (min(m, n) // 2,))
        return once * fits * of_block * steps.blocks

    def storage_within(self, linears: tuple[LayerStatistics, ...], budgets: Budgets, layout: Layout) -> Storage:
        """Return the sizes that lose least within the budgets."""
        found = Storage(ranks={}, sparsities={})
        for size, members in budgets.split(linears):
            if size.keep is None:
                found.ranks.update({linear.path: rank_within(linear, size.rank or 1, layout) for linear in members})
                continue
            chosen = self._chosen(self.problem(tuple(members), size.keep, layout, size.option))
            found.ranks.update({path: None if size is None else size.rank for path, size in chosen.items()})
            found.sparsities.update({path: size.sparsity for path, size in chosen.items() if size is not None})
        return found.model_copy(update={"ranks": {linear.path: found.ranks[linear.path] for linear in linears}})

    def ranks_within(
        self, linears: tuple[LayerStatistics, ...], budgets: Budgets, layout: Layout
    ) -> dict[str, int | None]:
        """Return the ranks alone."""
        return self.storage_within(linears, budgets, layout).ranks

    def choose(self, problem: RankBudget) -> Ranks:
        """Return the ranks alone."""
        return {path: None if size is None else size.rank for path, size in self._chosen(problem).items()}

    def _chosen(self, problem: RankBudget) -> dict[str, Sized | None]:
        """Return the size of each linear, by path; None where it stays dense."""
        if problem.budget >= problem.whole_bytes:
            return {linear.path: None for linear in problem.linears}
        sizes = {linear.path: sizes_by_bytes(linear, problem.layout) for linear in problem.linears}
        grid = SizeBudget(
            problem.linears,
            problem.keep,
            problem.layout,
            fused_groups=problem.fused_groups,
            option=problem.option,
            sizes=sizes,
        )
        found = best_ranks(grid, self.capped(grid))
        chosen = {path: None if place is None else sizes[path][place - 1][1] for path, place in found.items()}
        return self._filled(grid, found, chosen) if self.fill_budget else chosen

    def _filled(self, grid: SizeBudget, places: Ranks, chosen: dict[str, Sized | None]) -> dict[str, Sized | None]:
        """Return sizes with as many atoms more as the bytes have room for, where an error falls fastest first."""
        known = {linear.path: linear for linear in grid.linears}
        # The last option, of a linear that stays dense, is the one in front of the first.
        left = grid.budget - sum(grid.options[path][(place or 0) - 1].bytes for path, place in places.items())
        slopes = {path: grid.slope(path, place) for path, place in places.items() if place is not None}
        for path in sorted(slopes, key=lambda path: -slopes[path]):
            size, linear = chosen[path], known[path]
            assert size is not None
            layout = linear.layout(grid.layout).with_sparsity(size.sparsity)
            before = layout.bytes(*linear.shape, size.rank)
            room = min(before + left, layout.bytes(*linear.shape, None) - 1)
            rank = layout.largest_rank(*linear.shape, room) or size.rank
            size = replace(size, rank=max(rank - rank % self.multiple, size.rank))
            chosen[path] = size
            left -= layout.bytes(*linear.shape, size.rank) - before
        return chosen

    def capped(self, grid: SizeBudget) -> dict[str, list[float]]:
        """Return the error of each option of each linear, by path; infinite where it is above the cap."""
        errors = {path: [*(size.error for _, size in row), 0.0] for path, row in grid.sizes.items()}
        nearest = [min(row, key=lambda known: abs(known[1].share - grid.keep))[1] for row in grid.sizes.values() if row]
        mean = sum(size.error for size in nearest) / max(len(nearest), 1)
        for cap in sorted(self.caps):
            found = {
                path: [error if error <= cap * mean else math.inf for error in row] for path, row in errors.items()
            }
            least = sum(
                min(o.bytes for o, error in zip(grid.options[path], row, strict=True) if math.isfinite(error))
                for path, row in found.items()
            )
            if least <= grid.budget:
                return found
        return errors


def sizes_by_bytes(linear: LayerStatistics, layout: Layout) -> list[tuple[int, Sized]]:
    """Return the sizes of a linear that save bytes, with these, by rising bytes; of those with the same, the best."""
    known: dict[int, Sized] = {}
    for size in sorted(linear.own, key=lambda size: -size.error):
        own = linear.layout(layout).with_sparsity(size.sparsity)
        stored = own.bytes(*linear.shape, size.rank)
        if stored < own.bytes(*linear.shape, None):
            known[stored] = size
    return sorted(known.items(), key=lambda item: item[0])


@dataclass(frozen=True)
class SizeBudget(RankBudget):
    """Sizes for all linears within one budget of bytes; the rank of an option is the place of its size, from 1.

    Attributes:
        sizes: of each linear, with their bytes, which rise; by path.
    """

    sizes: Mapping[str, Sequence[tuple[int, Sized]]] = field(default_factory=dict)

    @cached_property
    def options(self) -> dict[str, list[Option]]:
        """The sizes of each linear by rising bytes, the dense one last, by path."""
        return {
            linear.path: [
                *(Option(place, stored) for place, (stored, _) in enumerate(self.sizes[linear.path], 1)),
                Option(None, self.whole_bytes_of(linear)),
            ]
            for linear in self.linears
        }

    def slope(self, path: str, place: int) -> float:
        """Return by how much the error of a linear falls a byte behind a size."""
        errors = [*(size.error for _, size in self.sizes[path]), 0.0]
        low, high = self.options[path][place - 1], self.options[path][place]
        return (errors[place - 1] - errors[place]) / (high.bytes - low.bytes)

    def check(self) -> None:
        """See :meth:`RankBudget.check`."""
        least = sum(options[0].bytes for options in self.options.values())
        if least > self.budget:
            needed = math.ceil(1000 * least / self.dense_bytes) / 1000
            raise EckartError(
                f"keep {self.keep:g} allows {self.budget:,} bytes, but the smallest of allocation.shares take "
                f"{least:,} ({least / self.dense_bytes:.1%}). Use {self.option} {needed:g} or more, or give "
                "allocation.shares smaller ones."
            )
