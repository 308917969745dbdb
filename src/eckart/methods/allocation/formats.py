"""Formats: how many bits and which rank each layer gets, by the predicted rise of the model's loss a byte."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, model_validator

from eckart.blocks.blockwise_model import BlockwiseModel
from eckart.device import moment_device
from eckart.errors import EckartError
from eckart.layers import weight_matrix
from eckart.maths.lowrank import solve
from eckart.maths.rounding_loss import predicted_losses
from eckart.maths.stopwatch import random_matrix, seconds_of
from eckart.maths.whitening import FLOAT32_FLOOR, whiten
from eckart.methods.allocation.base import Allocation, Outlook, OwnMeasurement, Storage, Wanted
from eckart.methods.allocation.budgets import Budgets, rank_within
from eckart.methods.allocation.hull import lower_hull
from eckart.methods.allocation.rank_budget import RankBudget, Ranks
from eckart.methods.choice import expand_name
from eckart.methods.layout import Layout, dense_bytes
from eckart.methods.metric import Fisher
from eckart.methods.precision import AnyPrecision, Bits2, Bits3, Bits4, Bits5, Bits6, Bits8, Bits16, FewBits
from eckart.methods.sensitivity.cost import StepSeconds
from eckart.methods.sensitivity.layer_statistics import LayerStatistics, Needs
from eckart.methods.sensitivity.measurements import Measurements
from eckart.methods.sensitivity.request import Request

PREDICTED = (0.0, 0.03, 0.06, 0.1, 0.16, 0.25)  # ranks whose loss is predicted, as shares of the shorter side
MORE = 0.1  # by which the size is larger whose loss is told beside that of the one asked for
EMBEDDINGS: tuple[AnyPrecision, ...] = (
    *(Bits16(), Bits8(), Bits6(scale_bits=8), Bits5(scale_bits=8)),
    *(Bits4(group=64, scale_bits=8), Bits3(scale_bits=8)),
)
NEGLIGIBLE = 1e-4  # nats a token, for which no bytes are spent
TIMED_SIDE = 512  # of a matrix whose factorisation is timed


@dataclass(frozen=True)
class Stored:
    """A way to store a layer.

    Attributes:
        base: of its weight.
        rank: of the factors beside it; None for none.
        bytes: that it takes.
        loss: predicted rise of the model's loss, in nats a token.
    """

    base: FewBits
    rank: int | None
    bytes: int
    loss: float


class Formats(Allocation):
    """Each layer takes one of several precisions, and factors of some rank or none beside it.

    The loss of each is predicted from both sides of the curvature before anything is rounded
    (:mod:`eckart.maths.rounding_loss`). Layers climb the lower convex hulls of their (bytes, loss), the steepest
    segment of all first. For structure hybrid, whose base it chooses.

    Attributes:
        bases: precisions to choose from.
        factors: whether a layer may have factors beside its base; without them its products are fewer, and faster.
        metric: how gradients of outputs are measured, if the objective has no metric.
    """

    name: Literal["formats"] = "formats"
    needs: ClassVar[Needs] = Needs.NONE
    chooses_bases: ClassVar[bool] = True

    bases: tuple[Annotated[FewBits, Discriminator("name"), BeforeValidator(expand_name)], ...] = Field(
        (Bits8(), Bits6(), Bits5(), Bits4(group=64), Bits3(), Bits2()), min_length=1
    )
    factors: bool = True
    metric: Fisher = Fisher()

    @model_validator(mode="after")
    def _rules_that_it_has(self) -> Self:
        if self.floor or self.fused_groups or not self.fill_budget:
            raise ValueError("allocation formats has no floor and no fused_groups, and fills its budget")
        return self

    @property
    def embeddings(self) -> tuple[AnyPrecision, ...]:
        """See :attr:`Allocation.embeddings`; none where others shall read what comes out."""
        return EMBEDDINGS if self.factors else ()

    @property
    def own_measurement(self) -> OwnMeasurement:
        """See :attr:`Allocation.own_measurement`."""
        return OwnMeasurement.ONCE

    def ask(self, request: Request) -> Request:
        """Ask for gradients of outputs, and keep the moments of inputs."""
        return replace(super().ask(request), metric=request.metric or self.metric, keep_metrics=True, keep_moments=True)

    def measure(self, model: BlockwiseModel, measured: Measurements, wanted: Wanted) -> Measurements:
        """Predict the loss of each base at some ranks; a layer's are kept as rows of bases and columns of ranks."""
        known = {linear.path: linear for linear in measured.linears}
        device = moment_device(model.device)
        for number, block in enumerate(model.blocks):
            with model.onload(number):
                for group in block.groups:
                    moments = measured.moments[group.linears[0].path]
                    second = moments.second_moment.to(device) / max(moments.tokens, 1)
                    whitening = whiten(second, floor=FLOAT32_FLOOR)
                    for ref in group.linears:
                        weight = weight_matrix(block.module.get_submodule(ref.name)).detach().to(second)
                        gradients = measured.metrics[ref.path].to(second)
                        root = self.metric.root(gradients)
                        diagonal = gradients.diagonal(dim1=-2, dim2=-1).flatten()
                        solution = solve(whitening, None, weight, root)
                        schemes = [base.scheme for base in self.bases]
                        ranks = _predicted_ranks(ref.shape) if self.factors else [0]
                        losses = predicted_losses(solution, second, diagonal, schemes, ranks)
                        # Where no token or no gradient came nothing is known, and not that nothing is lost.
                        known[ref.path] = replace(known[ref.path], own=losses if losses[0][0] > 0 else None)
            wanted.progress(number + 1, len(model.blocks))
        return replace(measured, linears=tuple(known[linear.path] for linear in measured.linears))

    def own_seconds(self, steps: StepSeconds) -> float:
        """Return the seconds of a root and a moment's pivots for each predicted rank of each linear."""
        matrix = random_matrix(TIMED_SIDE, TIMED_SIDE).to(moment_device(steps.device)).double()
        once = seconds_of(lambda: matrix @ matrix, steps.device) / TIMED_SIDE**3
        of_block = sum((2 + len(PREDICTED)) * (columns**3 + rows * columns**2) for rows, columns in steps.shapes)
        return once * of_block * steps.blocks

    def unmeasured(self, linears: tuple[LayerStatistics, ...], budgets: Budgets, layout: Layout) -> Storage:
        """Return for each linear the base with the most bytes that are within its share; see the base class."""
        found = Storage(ranks={}, bases={})
        for size, members in budgets.split(linears):
            if size.keep is None:
                found.ranks.update({linear.path: rank_within(linear, size.rank or 1, layout) for linear in members})
                continue
            self._check(members, size.keep, layout, size.option)
            found.ranks.update({linear.path: None for linear in members})
            found.bases.update({linear.path: self._by_share(linear, size.keep, layout) for linear in members})
        return found

    def storage_within(self, linears: tuple[LayerStatistics, ...], budgets: Budgets, layout: Layout) -> Storage:
        """Return the ways that lose least within the budgets, by the hulls."""
        found, loss, larger = Storage(ranks={}, bases={}), 0.0, 0.0
        for size, members in budgets.split(linears):
            if size.keep is None:
                found.ranks.update({linear.path: rank_within(linear, size.rank or 1, layout) for linear in members})
                continue
            self._check(members, size.keep, layout, size.option)
            ways = {
                linear.path: self.ways(linear, layout)
                if linear.own is not None
                else [self._alone(linear, self._by_share(linear, size.keep, layout), layout)]
                for linear in members
            }
            budget = math.floor(size.keep * sum(linear.dense_bytes for linear in members) + 1e-6)
            chosen = best_within(ways, budget)
            found.ranks.update({path: way.rank for path, way in chosen.items()})
            found.bases.update({path: way.base for path, way in chosen.items()})
            loss += sum(way.loss for way in chosen.values())
            larger += sum(way.loss for way in best_within(ways, math.floor((1 + MORE) * budget)).values())
        return found.model_copy(update={"outlook": Outlook(loss=loss, more=MORE, loss_at_more=larger)})

    def ways(self, linear: LayerStatistics, layout: Layout) -> list[Stored]:
        """Return the ways to store a linear."""
        own, shape = layout.beside_bias(linear.has_bias), linear.shape
        ranks, found = _predicted_ranks(shape), []
        for base, losses in zip(self.bases, linear.own, strict=True):
            based = own.based_on(base)
            found.append(Stored(base, None, based.bytes(*shape, None), losses[0]))
            if not self.factors:
                continue
            for (low, before), (high, behind) in pairwise(zip(ranks, losses, strict=True)):
                for rank in range(self.multiple * (low // self.multiple + 1), high + 1, self.multiple):
                    loss = _between(before, behind, (rank - low) / (high - low))
                    found.append(Stored(base, rank, based.bytes(*shape, rank), loss))
        return found

    def _alone(self, linear: LayerStatistics, base: FewBits, layout: Layout) -> Stored:
        return Stored(base, None, layout.based_on(base).bytes(*linear.shape, None), 0.0)

    def _by_share(self, linear: LayerStatistics, keep: float, layout: Layout) -> FewBits:
        """Return the base with the most bytes within a share of a linear's, or the smallest one."""
        sizes = {self._alone(linear, base, layout).bytes: base for base in self.bases}
        return sizes[max((size for size in sizes if size <= keep * linear.dense_bytes), default=min(sizes))]

    def ranks_within(
        self, linears: tuple[LayerStatistics, ...], budgets: Budgets, layout: Layout
    ) -> dict[str, int | None]:
        """Return the ranks alone."""
        return self.storage_within(linears, budgets, layout).ranks

    def choose(self, problem: RankBudget) -> Ranks:
        """Return the ranks alone."""
        return self.ranks_within(problem.linears, Budgets(problem.keep), problem.layout)

    def _check(self, linears: Sequence[LayerStatistics], keep: float, layout: Layout, option: str) -> None:
        least = sum(min(layout.based_on(base).bytes(*linear.shape, None) for base in self.bases) for linear in linears)
        dense = sum(dense_bytes(*linear.shape) for linear in linears)
        if least > math.floor(keep * dense + 1e-6):
            needed = math.ceil(1000 * least / dense) / 1000
            fewest = min(self.bases, key=lambda base: base.bits).name
            raise EckartError(
                f"keep {keep:g} allows {math.floor(keep * dense):,} bytes, but all layers in {fewest} take {least:,} "
                f"({least / dense:.1%}). Use {option} {needed:g} or more, or give allocation.bases smaller ones."
            )


def best_within(ways: dict[str, list[Stored]], budget: int) -> dict[str, Stored]:
    """Return a way for each layer so that all lose least together for at most so many bytes.

    Bytes by which all layers together would win next to nothing are left.

    Args:
        ways: of each layer; those with the fewest bytes fit together.
        budget: of bytes.
    """
    chosen: dict[str, Stored] = {}
    segments: list[tuple[float, int, str, Stored, Stored]] = []
    for path, given in ways.items():
        # Of ways with the same bytes the best one: a corner has one size.
        known = list({way.bytes: way for way in sorted(given, key=lambda way: (way.bytes, -way.loss))}.values())
        corners = [known[c] for c in lower_hull([way.bytes for way in known], [way.loss for way in known])]
        chosen[path] = corners[0]
        for before, behind in pairwise(corners):
            slope = (before.loss - behind.loss) / (behind.bytes - before.bytes)
            segments.append((-slope, len(segments), path, before, behind))
    total = sum(way.bytes for way in chosen.values())
    left = sum(before.loss - behind.loss for _, _, _, before, behind in segments)
    for _, _, path, before, behind in sorted(segments, key=lambda segment: segment[:2]):
        if left < NEGLIGIBLE:  # by all that is to come
            break
        left -= before.loss - behind.loss
        extra = behind.bytes - before.bytes
        # A layer whose segment did not fit climbs no further: its next one starts where it is not.
        if chosen[path] is before and total + extra <= budget:
            chosen[path], total = behind, total + extra
    return chosen


def _predicted_ranks(shape: tuple[int, int]) -> list[int]:
    """Return the ranks whose loss is predicted, rising from 0."""
    return sorted({round(share * min(shape)) for share in PREDICTED})


def _between(before: float, behind: float, share: float) -> float:
    """Return a loss between two, along a straight line of its logarithm."""
    if before <= 0 or behind <= 0:
        return before + (behind - before) * share
    return math.exp(math.log(before) + (math.log(behind) - math.log(before)) * share)
