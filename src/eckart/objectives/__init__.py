"""Which inputs Z and which target outputs T: one file an objective, one line each in the table below."""

from __future__ import annotations

from eckart.objectives.anchored import Anchored as Anchored
from eckart.objectives.base import DataAwareObjective as DataAwareObjective
from eckart.objectives.base import Objective as Objective
from eckart.objectives.base import Streams as Streams
from eckart.objectives.base import TargetMoments as TargetMoments
from eckart.objectives.blended import Blended as Blended
from eckart.objectives.input_aware import InputAware as InputAware
from eckart.objectives.principal_outputs import PrincipalOutputs as PrincipalOutputs
from eckart.objectives.scaled import ActivationScaled as ActivationScaled
from eckart.objectives.shift_aware import ShiftAware as ShiftAware
from eckart.objectives.weight import Weight as Weight
from eckart.registry import Registry

OBJECTIVES: Registry[Objective] = Registry(
    "objectives",
    Objective,
    (Weight, ActivationScaled, InputAware, PrincipalOutputs, ShiftAware, Anchored, Blended),
)
