"""Pure functions of tensors: the low-rank solver, moments, rounding, pruning, pivots.

A layer that runs needs a few of them and not the solver, so that the names below are imported when they are asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eckart.lazy import importer

if TYPE_CHECKING:
    from eckart.maths.lowrank import Solution, minimum_loss, solve, truncate
    from eckart.maths.moments import Moments
    from eckart.maths.quantization import QuantScheme
    from eckart.maths.whitening import Whitening, whiten

__all__ = ["Moments", "QuantScheme", "Solution", "Whitening", "minimum_loss", "solve", "truncate", "whiten"]

__getattr__ = importer(
    __name__,
    {
        "Moments": "eckart.maths.moments:Moments",
        "QuantScheme": "eckart.maths.quantization:QuantScheme",
        "Solution": "eckart.maths.lowrank:Solution",
        "Whitening": "eckart.maths.whitening:Whitening",
        "minimum_loss": "eckart.maths.lowrank:minimum_loss",
        "solve": "eckart.maths.lowrank:solve",
        "truncate": "eckart.maths.lowrank:truncate",
        "whiten": "eckart.maths.whitening:whiten",
    },
)
