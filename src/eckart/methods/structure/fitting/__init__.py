"""How the numbers of a structure's layers are found: what needs the solver, and nobody who loads a model."""

from __future__ import annotations

from eckart.methods.structure.fitting.base import Arrangement as Arrangement
from eckart.methods.structure.fitting.base import Fitter as Fitter
from eckart.methods.structure.fitting.fit import Fit as Fit

__all__ = ["Arrangement", "Fit", "Fitter"]
