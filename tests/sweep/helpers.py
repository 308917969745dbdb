"""What the tests of the sweep share."""

from __future__ import annotations

from typing import Any

from eckart.evaluate import Perplexity
from eckart.sweep import SweepRow
from eckart.sweep.case import Case, recipe_of


def case_of(label: str = "svd", keep: float = 0.5, samples: int | None = None) -> Case:
    return Case(label, None if label == "dense" else recipe_of(label), keep, samples)


def row_of(case: Case, perplexity: float = 10.0, size: int = 100, **others: Any) -> SweepRow:
    measured = Perplexity(perplexity=perplexity, log_perplexity=perplexity / 10, error=None, windows=1, length=8)
    values: dict[str, Any] = {
        "model": "m",
        "revision": None,
        "label": case.label,
        "recipe": case.recipe,
        "keep": case.keep,
    }
    values |= {"kept": case.keep, "bytes": size, "calibration": None, "texts": {"t": measured}, "seconds": 0.0}
    return SweepRow(**{**values, "versions": {}, **others})
