"""An order over the components of all layers, by which one set of factors serves several sizes.

The best weight of rank r - 1 is that of rank r without its last component (:mod:`eckart.maths.lowrank`). So factors of
a high rank hold those of all lower ones, and a size is a rank for each layer. Components of all layers are put in one
order: most predicted loss a byte first, and inside of a layer as they come. A prefix of it is a size. Where the losses
of a layer do not fall from component to component, those that break the order share their mean: the order then follows
the lower convex hull of each layer's (bytes, loss) curve. So each prefix that ends between such groups loses least of
all choices of as many bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor

NATS = "nats"  # a token, which the model's loss is predicted to rise by
ENERGY = "energy"  # of the outputs of its own layer, as a share


@dataclass(frozen=True)
class NestedOrder:
    """What orders the components of the factored layers of a model, all by path.

    Attributes:
        losses: what each component is predicted to be worth, (R,) float32 and not negative, from the first one on.
        sizes: norm of each component as a matrix, (R,) float32, by which factors are known again.
        bytes: of one component of a layer, in 16-bit numbers.
        dense_bytes: of all layers that ``keep`` counts, as dense 16-bit weights.
        unfactored_bytes: of those of them that have no factors.
        lost: what the components that are not stored were predicted to be worth.
        multiple: ranks are multiples of it, but for those that are stored.
        unit: of losses, :data:`NATS` or :data:`ENERGY`.
        dtype: of the numbers that ``sizes`` are of, such as ``bfloat16``; None if that is not known.
    """

    losses: Mapping[str, Tensor]
    sizes: Mapping[str, Tensor]
    bytes: Mapping[str, int]
    dense_bytes: int
    unfactored_bytes: int
    lost: float
    multiple: int
    unit: str
    dtype: str | None = None

    @property
    def ranks(self) -> dict[str, int]:
        """The ranks that are stored."""
        return {path: len(losses) for path, losses in self.losses.items()}

    @property
    def keep(self) -> float:
        """The share of the dense bytes that all components take, with the layers that have none."""
        return self.keep_of(self.ranks)

    @property
    def least(self) -> float:
        """The smallest share that there is: each layer at its lowest rank."""
        return self.keep_of(self._lowest)

    def keep_of(self, ranks: Mapping[str, int]) -> float:
        """Return the share of the dense bytes that layers take at some ranks."""
        return self.bytes_of(ranks) / self.dense_bytes

    def bytes_of(self, ranks: Mapping[str, int]) -> int:
        """Return the bytes that all layers take at some ranks, those without factors included."""
        return self.unfactored_bytes + sum(self.bytes[path] * rank for path, rank in ranks.items())

    def loss_of(self, ranks: Mapping[str, int]) -> float:
        """Return the predicted loss at some ranks, in :attr:`unit`, from the model without any truncation."""
        return self.lost + sum(float(self.losses[path][rank:].double().sum()) for path, rank in ranks.items())

    def ranks_within(self, keep: float) -> dict[str, int] | None:
        """Return the ranks of the longest prefix that takes at most a share of the dense bytes.

        None where not even the lowest ranks do.
        """
        # The floor must not fall one byte short because 0.6 * 10 is 5.999... in binary.
        budget = math.floor(keep * self.dense_bytes + 1e-6)
        ranks = dict(self._lowest)
        total = self.bytes_of(ranks)
        if total > budget:
            return None
        for path, rank in self._steps:
            total += self.bytes[path] * (rank - ranks[path])
            if total > budget:
                break  # and not a smaller step of another layer: sizes would not be nested
            ranks[path] = rank
        return ranks

    def cut(self, ranks: Mapping[str, int]) -> NestedOrder:
        """Return the order of what is left at some ranks."""
        return replace(
            self,
            losses={path: losses[: ranks[path]].clone() for path, losses in self.losses.items()},
            sizes={path: sizes[: ranks[path]].clone() for path, sizes in self.sizes.items()},
            lost=self.loss_of(ranks),
        )

    @cached_property
    def _lowest(self) -> dict[str, int]:
        return {path: min(self.multiple, rank) for path, rank in self.ranks.items()}

    @cached_property
    def _steps(self) -> list[tuple[str, int]]:
        """Paths and the ranks that they rise to, in order."""
        found: list[tuple[float, int, int, str]] = []
        for number, (path, losses) in enumerate(self.losses.items()):
            values, rank = losses.double().tolist(), len(losses)
            ends = [*range(2 * self.multiple, rank, self.multiple), rank] if rank > self.multiple else []
            starts = [self.multiple, *ends]
            steps = [(math.fsum(values[a:b]), float(b - a)) for a, b in zip(starts, ends, strict=False)]
            worth = falling(steps)
            found += [(-w / self.bytes[path], number, end, path) for w, end in zip(worth, ends, strict=True)]
        return [(path, end) for _, _, end, path in sorted(found)]


def falling(steps: list[tuple[float, float]]) -> list[float]:
    """Return what steps are worth a unit of cost, none more than the one in front of it.

    Steps that break the order share their mean (pool adjacent violators): slopes of the lower convex hull.

    Args:
        steps: gain and cost of each, in order.
    """
    pools: list[tuple[float, float, int]] = []
    for gain, cost in steps:
        pools.append((gain, cost, 1))
        while len(pools) > 1 and pools[-2][0] * pools[-1][1] < pools[-1][0] * pools[-2][1]:
            (gain_1, cost_1, count_1), (gain_2, cost_2, count_2) = pools[-2:]
            pools[-2:] = [(gain_1 + gain_2, cost_1 + cost_2, count_1 + count_2)]
    return [gain / cost for gain, cost, count in pools for _ in range(count)]
