"""What a model is worth: measured, on what it was not calibrated on."""

from __future__ import annotations

from eckart.evaluate.agreement import Agreement, agreement
from eckart.evaluate.continuation import continuation
from eckart.evaluate.harness import Tasks, load_tasks
from eckart.evaluate.items import MEASURES, measure_items
from eckart.evaluate.options import measure_options, read_questions
from eckart.evaluate.pairs import measure_pairs, rank_correlation, read_pairs
from eckart.evaluate.perplexity import Perplexity, perplexity
from eckart.evaluate.scores import ItemScore
from eckart.evaluate.tasks import Score, ZeroShot, zero_shot

__all__ = [
    "MEASURES",
    "Agreement",
    "ItemScore",
    "Perplexity",
    "Score",
    "Tasks",
    "ZeroShot",
    "agreement",
    "continuation",
    "load_tasks",
    "measure_items",
    "measure_options",
    "measure_pairs",
    "perplexity",
    "rank_correlation",
    "read_pairs",
    "read_questions",
    "zero_shot",
]
