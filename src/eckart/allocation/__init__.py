"""Which rank where: one file an allocator, one line each in the table below."""

from __future__ import annotations

from eckart.allocation.base import Allocation as Allocation
from eckart.allocation.curvature import Curvature as Curvature
from eckart.allocation.energy import Energy as Energy
from eckart.allocation.importance import Importance as Importance
from eckart.allocation.learned import Learned as Learned
from eckart.allocation.problem import Evidence as Evidence
from eckart.allocation.problem import LinearEvidence as LinearEvidence
from eckart.allocation.search import Search as Search
from eckart.allocation.truncation_loss import TruncationLoss as TruncationLoss
from eckart.allocation.uniform import Uniform as Uniform
from eckart.allocation.zero_sum import ZeroSum as ZeroSum
from eckart.registry import Registry

ALLOCATIONS: Registry[Allocation] = Registry(
    "allocations",
    Allocation,
    (Uniform, TruncationLoss, Importance, Search, Learned, ZeroSum, Energy, Curvature),
)
