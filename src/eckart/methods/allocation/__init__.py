"""Which rank where: one file an allocator, one line each in the table below."""

from __future__ import annotations

from eckart.methods.allocation.base import Allocation, Outlook, OwnMeasurement, Storage, Wanted, gain_per_byte_of_shares
from eckart.methods.allocation.block_influence import BlockInfluence
from eckart.methods.allocation.budgets import Budgets
from eckart.methods.allocation.curvature import Curvature
from eckart.methods.allocation.energy import Energy
from eckart.methods.allocation.fit_to_budget import GainPerByte
from eckart.methods.allocation.formats import Formats
from eckart.methods.allocation.importance import Importance
from eckart.methods.allocation.knapsack import Knapsack
from eckart.methods.allocation.learned import Learned
from eckart.methods.allocation.lems import Lems
from eckart.methods.allocation.masks import Masks
from eckart.methods.allocation.rank_budget import RankBudget, Ranks
from eckart.methods.allocation.search import Search
from eckart.methods.allocation.second_round import SecondRound
from eckart.methods.allocation.swift import Swift
from eckart.methods.allocation.tolerance import Tolerance
from eckart.methods.allocation.truncation_loss import TruncationLoss
from eckart.methods.allocation.uniform import Uniform
from eckart.methods.allocation.zero_sum import ZeroSum
from eckart.methods.registry import Registry
from eckart.methods.sensitivity.layer_statistics import LayerStatistics, Needs
from eckart.methods.sensitivity.measurements import Measurements
from eckart.methods.sensitivity.request import Request

__all__ = [
    "ALLOCATIONS",
    "Allocation",
    "BlockInfluence",
    "Budgets",
    "Curvature",
    "Energy",
    "Formats",
    "GainPerByte",
    "Importance",
    "Knapsack",
    "LayerStatistics",
    "Learned",
    "Lems",
    "Masks",
    "Measurements",
    "Needs",
    "Outlook",
    "OwnMeasurement",
    "RankBudget",
    "Ranks",
    "Request",
    "Search",
    "SecondRound",
    "Storage",
    "Swift",
    "Tolerance",
    "TruncationLoss",
    "Uniform",
    "Wanted",
    "ZeroSum",
    "gain_per_byte_of_shares",
]

ALLOCATIONS: Registry[Allocation] = Registry(
    "allocations",
    Allocation,
    (
        *(Uniform, TruncationLoss, Importance, Search, Learned, ZeroSum, Energy, Curvature, Formats),
        *(Tolerance, Swift, Lems, SecondRound, Masks, BlockInfluence, Knapsack),
    ),
)
