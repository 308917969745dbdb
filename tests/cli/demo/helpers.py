from __future__ import annotations

import math

from eckart.cli.demo.run import Row
from eckart.cli.demo.steps import Step
from eckart.evaluate import Perplexity


def row(recipe: str | None, keep: float, value: float) -> Row:
    """Return a row of a model that was asked for ``keep`` and got a little less."""
    step = None if recipe is None else Step(recipe, keep)
    measured = Perplexity(perplexity=value, log_perplexity=math.log(value), error=0.1, windows=8, length=512)
    return Row(
        name="dense" if step is None else step.name,
        step=step,
        keep=keep if step is None else keep - 0.001,
        perplexity=measured,
        bytes_on_disk=int(200e6 * keep),
        seconds=61.0,
        continuation="a mapping",
    )
