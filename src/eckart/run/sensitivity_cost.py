"""How long the measurement takes that ranks follow from, told beforehand from timings of one block."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from eckart.blocks.discovery import Block
from eckart.compression.allocate import needs_measurement
from eckart.compression.plan import Plan
from eckart.compression.sensitivity.request import request_of
from eckart.data.calibration import Calibration
from eckart.maths.soft_truncation import soft_truncate
from eckart.methods.allocation import Learned, Needs, Search, ZeroSum
from eckart.methods.recipe import Recipe
from eckart.methods.sharing import SharedByLoss
from eckart.run.timing import random_matrix, seconds_of, solution_seconds

BACKWARD = 3  # a backward pass with its own forward pass takes about as long as three of those


@dataclass(frozen=True)
class Passes:
    """Seconds of single things, on this machine.

    Attributes:
        block: one batch of calibration tokens through one block.
        moments: the products of that batch for the block's second moments.
        head: that batch through the head.
        batch_tokens: in it.
    """

    block: float
    moments: float
    head: float
    batch_tokens: int


def measurement_seconds(
    block: Block,
    recipe: Recipe,
    plan: Plan,
    calibration: Calibration | None,
    passes: Passes | None,
    device: torch.device,
) -> float:
    """Return the seconds from the start to the ranks; 0 if nothing is measured for them.

    Args:
        block: the largest one.
        recipe: whose allocation and output metric say what is measured.
        plan: the blocks; its ranks do not matter.
        calibration: the tokens; None if nothing looks at data.
        passes: timings; None if nothing looks at data.
        device: where blocks are run.
    """
    if not needs_measurement(recipe, plan.keep):
        return 0.0
    blocks, request = len(plan.blocks), request_of(recipe, keep_bases=recipe.weighs_tokens)
    seconds = solution_seconds(block, recipe, device) * blocks if request.needs_spectrum else 0.0
    if calibration is None or passes is None:
        return seconds
    batches = calibration.tokens.numel() / passes.batch_tokens
    kinds = (Needs.FIRST_ORDER in request.needs) + (request.metric is not None)
    seconds += blocks * batches * (1 + kinds * BACKWARD) * passes.block
    if request.needs_moments:
        seconds += blocks * batches * (passes.block * (not kinds) + passes.moments)
    # Each linear has a second moment of its output gradients, and perhaps one of its inputs with its own weights.
    sums = (request.metric is not None) + request.weighs_tokens
    seconds += blocks * batches * sums * passes.moments * len(block.linears) / len(block.groups)
    seconds += kinds * batches * BACKWARD * passes.head
    allocation, once = recipe.allocation, seconds
    if isinstance(allocation, ZeroSum):
        seconds *= allocation.stages
    if isinstance(allocation, Search):
        tokens = calibration.tokens[: allocation.trial_samples, : allocation.trial_length].numel()
        trials = len(plan.linears) * len(allocation.shares)
        seconds += trials * tokens / passes.batch_tokens * (passes.block * blocks / 2 + passes.head)
    if isinstance(allocation, Learned):
        # Unless the objective has a metric, positions are all that is measured.
        seconds = seconds if recipe.has_metric else 0.0
        sample = calibration.tokens[: allocation.training_samples, : allocation.training_length]
        truncating = sum(_soft_truncation_seconds(sample.shape[1], t.out_features, device) for t in block.linears)
        share = sample.shape[1] / passes.batch_tokens
        of_sequence = blocks * (2 * truncating + (1 + BACKWARD) * passes.block * share) + BACKWARD * passes.head * share
        seconds += allocation.epochs * len(sample) * of_sequence
    if isinstance(recipe.sharing, SharedByLoss):
        # Which groups share a basis is found before, by two measurements of the same kind.
        measured_again = bool(allocation.needs or recipe.has_metric)
        seconds = 2 * once + (seconds if measured_again else 0.0)
    return seconds


def _soft_truncation_seconds(tokens: int, features: int, device: torch.device) -> float:
    outputs = random_matrix(tokens, features).to(device)
    return seconds_of(lambda: soft_truncate(outputs, torch.tensor(1.0, device=device)), device)
