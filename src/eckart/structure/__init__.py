"""How a low-rank weight is laid out: one file a structure, one line each in the table below."""

from __future__ import annotations

from eckart.registry import Registry
from eckart.structure.base import Matrix as Matrix
from eckart.structure.base import Structure as Structure
from eckart.structure.hybrid import Hybrid as Hybrid
from eckart.structure.pivoted import Pivoted as Pivoted
from eckart.structure.remapped import Remapped as Remapped
from eckart.structure.two_factor import TwoFactor as TwoFactor

STRUCTURES: Registry[Structure] = Registry("structures", Structure, (TwoFactor, Pivoted, Hybrid, Remapped))
