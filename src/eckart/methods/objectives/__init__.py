"""Which inputs Z and which target outputs T: one file an objective, one line each in the table below."""

from __future__ import annotations

from eckart.methods.objectives.anchored import Anchored as Anchored
from eckart.methods.objectives.base import DataAwareObjective as DataAwareObjective
from eckart.methods.objectives.base import InputSource as InputSource
from eckart.methods.objectives.base import Objective as Objective
from eckart.methods.objectives.base import TargetMoments as TargetMoments
from eckart.methods.objectives.blended import Blended as Blended
from eckart.methods.objectives.input_aware import InputAware as InputAware
from eckart.methods.objectives.principal_outputs import PrincipalOutputs as PrincipalOutputs
from eckart.methods.objectives.scaled import ActivationScaled as ActivationScaled
from eckart.methods.objectives.shift_aware import ShiftAware as ShiftAware
from eckart.methods.objectives.weight import Weight as Weight
from eckart.methods.registry import Registry

OBJECTIVES: Registry[Objective] = Registry(
    "objectives",
    Objective,
    (Weight, ActivationScaled, InputAware, PrincipalOutputs, ShiftAware, Anchored, Blended),
)
