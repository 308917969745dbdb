"""Pairs of texts that people have scored by how alike they are, and how far a model's vectors agree with them."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from eckart.data.encoder import Encoder
from eckart.data.items import Item
from eckart.data.rows import json_rows
from eckart.data.text import read_file
from eckart.errors import EckartError
from eckart.evaluate.reading import read_item
from eckart.evaluate.scores import ItemScore

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FIRST, SECOND = ("text1", "sentence1", "first", "query"), ("text2", "sentence2", "second", "answer")
SCORE = ("score", "label", "similarity")
FEWEST = 4  # pairs, below which a correlation has no error


@dataclass(frozen=True)
class Pair:
    """Two texts and how alike people find them, in any unit."""

    first: str
    second: str
    score: float


def read_pairs(path: Path) -> list[Pair]:
    """Return the pairs in a file: JSON lines, or a table with tabs or commas and a line of names.

    A table without a line of names has three columns: the texts and the score.

    Raises:
        EckartError: a row has no two texts and a score, or there are fewer than two pairs.
    """
    text = read_file(path)
    if path.suffix in (".jsonl", ".json"):
        rows = [(where, _columns(row, where)) for where, row in json_rows(text, path)]
    else:
        table = list(csv.reader(text.splitlines(), delimiter="," if path.suffix == ".csv" else "\t"))
        named = bool(table) and any(name.strip().lower() in SCORE for name in table[0])
        names = [name.strip().lower() for name in table[0]] if named else [FIRST[0], SECOND[0], SCORE[0]]
        rows = []
        for number, cells in enumerate(table[named:], start=1 + named):
            if cells:
                where = f"{path}, line {number}"
                rows.append((where, _columns(dict(zip(names, cells, strict=False)), where)))
    found = [_pair(where, *columns) for where, columns in rows]
    if len(found) < 2:
        raise EckartError(f"{path} has {len(found)} pairs; expected two or more, to see which are more alike.")
    return found


def measure_pairs(
    model: PreTrainedModel,
    encoder: Encoder,
    pairs: Sequence[Pair],
    *,
    baseline: PreTrainedModel | None = None,
    pooling: str = "mean",
    on_item: Callable[[int, int], None] = lambda done, total: None,
) -> ItemScore:
    """Measure the rank correlation (Spearman) of cosines with scores.

    Its standard error is that of Bonett and Wright (2000). That of the difference of two models, which were asked the
    same, is not known.

    Args:
        model: that gives vectors.
        encoder: of it.
        pairs: two or more.
        baseline: is asked the same.
        pooling: of hidden states to vectors.
        on_item: is called with (done, total) after each pair.

    Raises:
        EckartError: the model fails, or gives vectors that are all alike.
    """
    ours, theirs = [], []
    with torch.inference_mode():
        for number, pair in enumerate(pairs, start=1):
            samples = [encoder.encode(Item(f"pair {number}", text=text)) for text in (pair.first, pair.second)]
            ours.append(_cosine(model, samples, pooling))
            if baseline is not None:
                theirs.append(_cosine(baseline, samples, pooling))
            on_item(number, len(pairs))
    scores = [pair.score for pair in pairs]
    value = rank_correlation(ours, scores)
    found = ItemScore(
        value=value,
        error=correlation_error(value, len(pairs)),
        measure="rank correlation",
        items=len(pairs),
        of=f"{len(pairs)} pairs",
    )
    if not theirs:
        return found
    other = rank_correlation(theirs, scores)
    return found.model_copy(
        update={"baseline": other, "baseline_error": correlation_error(other, len(pairs)), "difference": value - other}
    )


def rank_correlation(found: Sequence[float], expected: Sequence[float]) -> float:
    """Return Spearman's correlation, ties by their mean rank.

    Raises:
        EckartError: all numbers of one side are equal, or one is not finite.
    """
    a, b = _ranks(found), _ranks(expected)
    a, b = a - a.mean(), b - b.mean()
    length = float(a.norm() * b.norm())
    if not math.isfinite(math.fsum(found)) or not length:
        raise EckartError("All pairs are equally alike, or not by a finite number, so that nothing can be ranked.")
    return float(a @ b) / length


def _ranks(values: Sequence[float]) -> Tensor:
    numbers = torch.tensor(values, dtype=torch.float64)
    # How many are less, and half of those that are the same.
    less, same = numbers[:, None] > numbers, numbers[:, None] == numbers
    return less.double().sum(dim=1) + (same.double().sum(dim=1) + 1) / 2


def correlation_error(value: float, pairs: int) -> float | None:
    """Return the standard error of a rank correlation of so many pairs; None of too few."""
    if pairs < FEWEST:
        return None
    return (1 - value**2) * math.sqrt((1 + value**2 / 2) / (pairs - 3))


def _cosine(model: PreTrainedModel, samples: Sequence[dict[str, Tensor]], pooling: str) -> float:
    vectors = [read_item(model, sample, pooling=pooling, states=True).vectors for sample in samples]
    if not all(vectors):
        raise EckartError(f"{type(model).__name__} gives no vectors to compare.")
    first, second = (each[0].float() for each in vectors)
    return float(functional.cosine_similarity(first, second, dim=0))


def _columns(row: dict[str, object], where: str) -> tuple[object, object, object]:
    found = [next((row[name] for name in names if name in row), None) for names in (FIRST, SECOND, SCORE)]
    if any(value is None for value in found):
        raise EckartError(
            f"{where} has the columns {', '.join(map(str, row))}; expected {FIRST[1]}, {SECOND[1]} and {SCORE[0]}."
        )
    return found[0], found[1], found[2]


def _pair(where: str, first: object, second: object, score: object) -> Pair:
    try:
        number = float(str(score))
    except ValueError:
        number = math.nan
    if not isinstance(first, str) or not isinstance(second, str) or not math.isfinite(number):
        raise EckartError(f"{where} has no two texts and a finite score.")
    return Pair(first, second, number)
