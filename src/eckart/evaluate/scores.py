"""A number for each item to one number for all, with its standard error, and beside that of a baseline."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import BaseModel

from eckart.evaluate.perplexity import perplexity_of


class Measured(BaseModel):
    """A number with its standard error, and where there is a baseline, the baseline's and the difference.

    Attributes:
        value: the model's.
        error: standard error of that; None where there is none.
        baseline: the baseline's, on the same documents; None without one.
        baseline_error: standard error of that.
        difference: the model's minus the baseline's.
        difference_error: standard error of that over pairs, as both were asked the same; None for metrics that are no
            mean over documents.
    """

    value: float
    error: float | None
    baseline: float | None = None
    baseline_error: float | None = None
    difference: float | None = None
    difference_error: float | None = None


class ItemScore(Measured):
    """One measure on items.

    Attributes:
        measure: what it is.
        items: how many were looked at.
        of: what there is one number of in each item, in the plural, and how many: ``412 answer tokens``.
        perplexity: the exponential of the value, where that is a loss; else None.
    """

    measure: str
    items: int
    of: str
    perplexity: float | None = None


def ratio_and_error(sums: Sequence[float], counts: Sequence[float]) -> tuple[float, float | None]:
    """Return a mean over the parts of items, and its standard error over items; None of a single one.

    Args:
        sums: of each item.
        counts: of what they are sums of, one or more in all.
    """
    number, total = len(sums), math.fsum(counts)
    mean = math.fsum(sums) / total
    if number < 2:
        return mean, None
    # Items differ in their counts, which are a matter of chance too.
    spread = math.fsum((part - mean * count) ** 2 for part, count in zip(sums, counts, strict=True))
    return mean, math.sqrt(spread * number / (number - 1)) / total


def score_of(
    measure: str,
    sums: Sequence[float],
    counts: Sequence[float],
    unit: str,
    baseline: Sequence[float] | None = None,
) -> ItemScore:
    """Return a measure on items.

    Args:
        measure: its name.
        sums: of each item, of the model.
        counts: of what they are sums of.
        unit: the name of that, in the plural.
        baseline: sums of the same items, of the baseline.
    """
    value, error = ratio_and_error(sums, counts)
    found = ItemScore(
        value=value,
        error=error,
        measure=measure,
        items=len(sums),
        of=f"{len(sums)} items" if unit == "items" else f"{round(math.fsum(counts))} {unit} of {len(sums)} items",
        perplexity=perplexity_of(value) if measure == LOSS else None,
    )
    if baseline is None:
        return found
    other, other_error = ratio_and_error(baseline, counts)
    difference = ratio_and_error([ours - theirs for ours, theirs in zip(sums, baseline, strict=True)], counts)
    return found.model_copy(
        update={
            "baseline": other,
            "baseline_error": other_error,
            "difference": difference[0],
            "difference_error": difference[1],
        }
    )


LOSS = "nats a token"
