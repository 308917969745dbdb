"""What a model is worth: measured, on text that it was not calibrated on."""

from __future__ import annotations

from eckart.evaluate.agreement import Agreement, agreement
from eckart.evaluate.continuation import continuation
from eckart.evaluate.harness import Tasks, load_tasks
from eckart.evaluate.perplexity import Perplexity, perplexity
from eckart.evaluate.tasks import Score, ZeroShot, zero_shot

__all__ = [
    "Agreement",
    "Perplexity",
    "Score",
    "Tasks",
    "ZeroShot",
    "agreement",
    "continuation",
    "load_tasks",
    "perplexity",
    "zero_shot",
]
