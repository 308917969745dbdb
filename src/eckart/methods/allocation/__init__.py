"""Which rank where: one file an allocator, one line each in the table below."""

from __future__ import annotations

from eckart.methods.allocation.base import Allocation as Allocation
from eckart.methods.allocation.curvature import Curvature as Curvature
from eckart.methods.allocation.energy import Energy as Energy
from eckart.methods.allocation.importance import Importance as Importance
from eckart.methods.allocation.learned import Learned as Learned
from eckart.methods.allocation.search import Search as Search
from eckart.methods.allocation.truncation_loss import TruncationLoss as TruncationLoss
from eckart.methods.allocation.uniform import Uniform as Uniform
from eckart.methods.allocation.zero_sum import ZeroSum as ZeroSum
from eckart.methods.registry import Registry
from eckart.methods.sensitivity.layer_statistics import LayerStatistics as LayerStatistics
from eckart.methods.sensitivity.layer_statistics import Needs as Needs

ALLOCATIONS: Registry[Allocation] = Registry(
    "allocations",
    Allocation,
    (Uniform, TruncationLoss, Importance, Search, Learned, ZeroSum, Energy, Curvature),
)
