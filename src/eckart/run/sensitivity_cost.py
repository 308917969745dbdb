"""How long the measurement takes that ranks follow from, told beforehand from timings of one block."""

from __future__ import annotations

import math

import torch

from eckart.blocks.block import Block
from eckart.compression.allocate import needs_measurement
from eckart.compression.plan import Plan
from eckart.compression.request import request_for_walk
from eckart.methods.sensitivity.cost import BACKWARD, StepSeconds
from eckart.methods.sensitivity.layer_statistics import Needs
from eckart.methods.sensitivity.request import Request
from eckart.run.timing import solution_seconds


def measurement_seconds(plan: Plan, block: Block, steps: StepSeconds | None, device: torch.device) -> float:
    """Return the seconds from the start to the ranks; 0 if nothing is measured for them.

    Args:
        plan: whose recipe says what is measured; its ranks do not matter.
        block: the largest one.
        steps: timings; None if nothing looks at data.
        device: where blocks are run.
    """
    if not needs_measurement(plan):
        return 0.0
    recipe, request = plan.recipe, request_for_walk(plan.recipe)
    once = 0.0
    if request.needs_spectrum:
        once = solution_seconds(block, recipe, device) * len(plan.blocks)
    if steps is None:
        return once
    once += _walk_seconds(request, block, steps)
    # Which groups share a basis is found before, by two measurements of the same kind.
    before = 2 * once if recipe.sharing.measures else 0.0
    shared = 0.0 if request.is_empty else once * recipe.allocation.walks
    return before + shared + recipe.allocation.own_seconds(steps)


def _walk_seconds(request: Request, block: Block, steps: StepSeconds) -> float:
    """Return the seconds of one walk there, and back where gradients are asked for."""
    first_order = steps.batches if Needs.FIRST_ORDER in request.needs else 0.0
    if request.gradient_samples is not None:  # what has no gradient is not run backward
        first_order = min(first_order, math.ceil(request.gradient_samples * steps.length / steps.batch_tokens))
    metric = steps.batches if request.metric is not None else 0.0
    seconds = steps.blocks * (steps.batches + BACKWARD * (first_order + metric)) * steps.block
    if request.needs_moments:
        alone = steps.batches - max(first_order, metric)  # batches that are run for their inputs alone
        seconds += steps.blocks * (alone * steps.block + steps.batches * steps.moments)
    # Each linear has a second moment of its output gradients, and perhaps one of its inputs with its own weights.
    sums = (request.metric is not None) + request.weighs_tokens
    seconds += steps.blocks * steps.batches * sums * steps.moments * len(block.linears) / len(block.groups)
    return seconds + BACKWARD * (first_order + metric) * steps.head
