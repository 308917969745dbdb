"""What puts other layers in the place of linears: factors, or fewer outputs and inputs."""

from __future__ import annotations

import torch

from eckart.compression.factorise import Factoriser
from eckart.compression.narrow import Narrowing
from eckart.compression.plan import Plan
from eckart.methods.sensitivity.measurements import Measurements


def replacing(
    plan: Plan, measurements: Measurements, device: torch.device, *, inputs_kept: bool
) -> Factoriser | Narrowing:
    """Return what replaces the linears of a plan.

    Args:
        plan: the recipe and the ranks.
        measurements: of the original model.
        device: where float64 factorisations run.
        inputs_kept: whether no moments will come, but what was kept of the inputs when ranks were chosen.
    """
    if plan.recipe.pairs.narrows:
        return Narrowing(plan, device)
    recipe = plan.recipe
    kept = inputs_kept or bool(measurements.moments)
    solved = measurements.solutions and (recipe.weighs_tokens or kept) and not recipe.structure.fits_itself
    solved = solved and recipe.preparation.training is None  # whose weights are not those that were solved for
    return Factoriser(
        recipe,
        plan,
        device,
        measurements.metrics,
        measurements.components if solved else None,
        measurements if inputs_kept else None,
    )
