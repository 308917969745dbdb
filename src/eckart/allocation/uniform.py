"""Uniform: every linear keeps the same share of its bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from eckart.choice import Choice
from eckart.structure import TwoFactor, dense_bytes


class Uniform(Choice):
    """The rank of each linear is the largest that keeps its share: ``floor(keep m n / (m + n))`` for two factors."""

    name: Literal["uniform"] = "uniform"

    def ranks(self, shapes: Mapping[str, tuple[int, int]], keep: float, structure: TwoFactor) -> dict[str, int | None]:
        """Return a rank for each linear, or None where it stays dense.

        Args:
            shapes: name -> (out features, in features).
            keep: bytes to keep, as a share of the dense 16-bit bytes, in (0, 1].
            structure: what a rank costs.
        """
        # The floor must not fall one byte short because 0.6 * 10 is 5.999... in binary.
        budgets = {name: math.floor(keep * dense_bytes(*shape) + 1e-6) for name, shape in shapes.items()}
        return {name: structure.largest_rank(*shape, budgets[name]) for name, shape in shapes.items()}
