"""How the numbers of a structure's layers are found: what needs the solver, and nobody who loads a model."""

from __future__ import annotations

from eckart.methods.structure.fitting.base import Arrangement, Fitter
from eckart.methods.structure.fitting.fit import Fit

__all__ = [
    "Arrangement",
    "Fit",
    "Fitter",
]
