"""Which inputs Z and which target outputs T: one file an objective, one line each in the table below."""

from __future__ import annotations

from eckart.methods.objectives.anchored import Anchored
from eckart.methods.objectives.base import DataAwareObjective, InputSource, Objective, TargetMoments
from eckart.methods.objectives.blended import Blended
from eckart.methods.objectives.input_aware import InputAware
from eckart.methods.objectives.principal_outputs import PrincipalOutputs
from eckart.methods.objectives.scaled import ActivationScaled
from eckart.methods.objectives.shift_aware import ShiftAware
from eckart.methods.objectives.weight import Weight
from eckart.methods.registry import Registry

__all__ = [
    "OBJECTIVES",
    "ActivationScaled",
    "Anchored",
    "Blended",
    "DataAwareObjective",
    "InputAware",
    "InputSource",
    "Objective",
    "PrincipalOutputs",
    "ShiftAware",
    "TargetMoments",
    "Weight",
]

OBJECTIVES: Registry[Objective] = Registry(
    "objectives",
    Objective,
    (Weight, ActivationScaled, InputAware, PrincipalOutputs, ShiftAware, Anchored, Blended),
)
