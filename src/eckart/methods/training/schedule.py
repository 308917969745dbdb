"""The learning rate over a training run."""

from __future__ import annotations

import math


def learning_rate_factor(step: int, steps: int, warmup: float, final: float) -> float:
    """Return what the learning rate is multiplied with in one step.

    It rises linearly from 0 over the first steps, and then falls to ``final`` along half a cosine (AA-SVD, arXiv
    2604.02119, appendix B.2).

    Args:
        step: counted from 0.
        steps: in all.
        warmup: share of the steps in which it rises.
        final: the factor at the end.
    """
    rising = int(warmup * steps)  # cut, as published
    if step < rising:
        return step / rising
    progress = (step - rising) / max(1, steps - rising)
    return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2
