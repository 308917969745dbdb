"""One measured divergence a linear, at a reference rank, which sets the scale of a predicted curve."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from eckart.blocks.blockwise_model import BlockwiseModel
from eckart.methods.allocation.base import Wanted, relative_energy
from eckart.methods.allocation.rank_budget import RankBudget
from eckart.methods.allocation.trials import trial_divergences
from eckart.methods.layout import Layout
from eckart.methods.sensitivity.layer_statistics import LayerStatistics
from eckart.methods.sensitivity.measurements import Measurements


def break_even_rank(linear: LayerStatistics, layout: Layout) -> int:
    """Return the largest rank whose factors take no more bytes than the weight, as ``mn / (m + n)``; 0 if none do."""
    layout = linear.layout(layout)
    whole = layout.bytes(*linear.shape, None)
    fewer = layout.largest_rank(*linear.shape, whole - 1) or 0
    equal = fewer < layout.highest_rank(*linear.shape) and layout.bytes(*linear.shape, fewer + 1) <= whole
    return fewer + equal


def reference_rank(linear: LayerStatistics, layout: Layout, share: float) -> int:
    """Return the rank at a share of the break-even rank, rounded down; at least 1."""
    return max(1, math.floor(share * break_even_rank(linear, layout) + 1e-9))


def reference_divergences(
    sample: BlockwiseModel,
    measured: Measurements,
    wanted: Wanted,
    share: float,
    *,
    temperature: float = 1.0,
    first: int = 0,
) -> dict[str, float]:
    """Return the divergence of the model with each linear alone truncated to its reference rank, in nats, by path.

    One run of the model a linear. Where a rank is said, or no rank saves bytes, nothing is measured.

    Args:
        sample: the original model, with the samples to measure on.
        measured: with the bases in which linears are truncated.
        wanted: the sizes, and what a rank costs.
        share: of the break-even rank.
        temperature: see :func:`eckart.blocks.losses.divergence`, like ``first``.
        first: place in a sequence that counts.
    """
    ranks = {
        linear.path: [reference_rank(linear, wanted.layout, share)]
        for linear in measured.linears
        if wanted.budgets.size(linear.path).rank is None and break_even_rank(linear, wanted.layout)
    }
    known = trial_divergences(
        sample, measured.solutions, ranks, wanted.progress, temperature=temperature, first=first
    ).trials
    return {path: loss for path, of_path in known.items() for loss in of_path.values()}


def scaled_losses(
    problem: RankBudget,
    curve: Callable[[LayerStatistics], Tensor],
    divergence: Callable[[LayerStatistics], float],
    share: float,
    least: float = 0.0,
) -> dict[str, list[float]]:
    """Return at each option of each linear its curve, scaled to what was measured at the reference rank.

    That is ``K t(r) / max(t(reference), least)``, t being what the components beyond a rank carry, and 0 for the dense
    weight. Where the curve says that nothing is lost at the reference rank, the shares of energy take its place.

    Args:
        problem: options.
        curve: what each component carries, (p,).
        divergence: K, measured; infinite where the model breaks, and then all factored options are.
        share: at which the reference rank is.
        least: of the value at the reference rank.
    """
    found = {}
    curves = {linear.path: curve(linear) for linear in problem.linears}
    at_reference = {}
    for linear in problem.linears:
        rank = reference_rank(linear, problem.layout, share)
        at_reference[linear.path] = max(float(curves[linear.path][rank:].sum()), least)
        if not at_reference[linear.path] > 0:
            curves[linear.path] = relative_energy(linear)
            at_reference[linear.path] = float(curves[linear.path][rank:].sum()) or 1.0
    tails = problem.losses(lambda linear: curves[linear.path])
    for linear in problem.linears:
        scale = divergence(linear)
        found[linear.path] = [
            0.0 if option.rank is None else math.inf if math.isinf(scale) else scale * tail / at_reference[linear.path]
            for option, tail in zip(problem.options[linear.path], tails[linear.path], strict=True)
        ]
    return found
