"""How a low-rank weight is laid out: one file a structure, one line each in the table below."""

from __future__ import annotations

from eckart.methods.registry import Registry
from eckart.methods.structure.base import Matrix, Structure
from eckart.methods.structure.dictionary import Dictionary
from eckart.methods.structure.hybrid import Hybrid
from eckart.methods.structure.kept_columns import KeptColumns
from eckart.methods.structure.pivoted import Pivoted
from eckart.methods.structure.remapped import Remapped
from eckart.methods.structure.two_factor import TwoFactor

__all__ = [
    "STRUCTURES",
    "Dictionary",
    "Hybrid",
    "KeptColumns",
    "Matrix",
    "Pivoted",
    "Remapped",
    "Structure",
    "TwoFactor",
]

STRUCTURES: Registry[Structure] = Registry(
    "structures", Structure, (TwoFactor, Pivoted, Hybrid, Remapped, KeptColumns, Dictionary)
)
