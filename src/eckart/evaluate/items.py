"""Measures on items of any kind of model: answers, classes, vectors, and how far all of it is from a baseline's."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from eckart.data.samples import Sample
from eckart.errors import EckartError, suggest
from eckart.evaluate.agreement import compare
from eckart.evaluate.greedy import answers_right
from eckart.evaluate.letters import letter_errors
from eckart.evaluate.reading import POOLINGS, Reading, read_item
from eckart.evaluate.scores import LOSS, ItemScore, score_of
from eckart.kinds import kind_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# By the name in the command: whether a baseline is needed.
MEASURES = {
    "perplexity": False,
    "accuracy": False,
    "errors": False,
    "divergence": True,
    "similarity": True,
    "distance": True,
}


@dataclass(frozen=True)
class _Part:
    """What an item adds to a measure: a sum, of how many, and of what."""

    measure: str
    total: float
    count: float
    unit: str


def choose_measures(model: PreTrainedModel, wanted: Sequence[str] | None, *, compared: bool) -> tuple[str, ...]:
    """Return what to measure of a model on items: what is wanted, or what its kind is worth.

    Args:
        model: that is measured.
        wanted: names in :data:`MEASURES`; None for those of its kind, and with a baseline the divergence from it.
        compared: there is a baseline.

    Raises:
        EckartError: a name is unknown, or a measure needs a baseline.
    """
    if wanted is None:
        kind = kind_of(model)
        known = tuple(dict.fromkeys([*kind.measures, *(["divergence"] if kind.name != "features" else [])]))
        chosen = tuple(name for name in known if compared or not MEASURES[name])
        if not chosen:
            raise EckartError(
                f"Of {type(model).__name__}, {' and '.join(kind.measures)} are measured, which are to another model: "
                "give the dense one with --baseline."
            )
        return chosen
    for name in wanted:
        if name not in MEASURES:
            raise EckartError(f"No measure is called {name!r}{suggest(name, MEASURES)}")
        if MEASURES[name] and not compared:
            raise EckartError(f"{name} is measured to another model: give the dense one with --baseline.")
    return tuple(dict.fromkeys(wanted))


def measure_items(
    model: PreTrainedModel,
    samples: Sequence[Sample],
    measures: Sequence[str] | None = None,
    *,
    baseline: PreTrainedModel | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    pooling: str = "mean",
    on_item: Callable[[int, int], None] = lambda done, total: None,
) -> list[ItemScore]:
    """Measure a model on items.

    - ``perplexity``: the mean loss of the tokens of answers, and of masked tokens.
    - ``accuracy``: how often the class is right; of masked tokens, how often the first guess is; of a model that
      writes, how often its greedy answer is the one that was expected, letter case and spaces around it aside.
    - ``errors``: letters that are wrong, of those that were said (CTC).
    - ``divergence``: Kullback-Leibler divergence of the predictions from the baseline's, on tokens of answers or on
      classes, and how often both find the same most likely.
    - ``similarity``: cosine of the vectors of an item with the baseline's.
    - ``distance``: of the hidden states from the baseline's, relative to their length, mean over tokens.

    Args:
        model: of transformers.
        samples: as :func:`eckart.data.sampling.read_samples` gives them.
        measures: of the list above; None for what is measured of models of its kind.
        baseline: the model that it should be like, usually the dense one.
        tokenizer: of the model, to compare answers as text; without it their tokens are compared.
        pooling: of hidden states to vectors: ``mean``, ``first`` or ``last``.
        on_item: is called with (done, total) after each item.

    Raises:
        EckartError: a measure is unknown, needs a baseline, or no item has what it needs; a model fails on an item, or
            gives numbers that are not finite.
    """
    chosen = choose_measures(model, measures, compared=baseline is not None)
    if pooling not in POOLINGS:
        raise EckartError(f"No pooling is called {pooling!r}{suggest(pooling, POOLINGS)}")
    if not samples:
        raise EckartError("There are no items to measure on.")
    states = bool({"similarity", "distance"} & set(chosen))
    generates = "accuracy" in chosen and kind_of(model).writes
    single = [name for name in chosen if not MEASURES[name] and not (generates and name == "accuracy")]
    parts: list[list[_Part]] = []
    others: list[list[_Part]] = []
    model.eval()
    with torch.inference_mode():
        for number, sample in enumerate(samples, start=1):
            ours = read_item(model, sample, pooling=pooling, states=states)
            found = [part for name in single for part in _alone(model, name, ours)]
            if generates and "labels" in sample:
                found.append(_Part("accuracy", answers_right(model, sample, tokenizer), 1, "items"))
            if baseline is not None:
                baseline.eval()
                theirs = read_item(baseline, sample, pooling=pooling, states=states)
                others.append([part for name in single for part in _alone(baseline, name, theirs)])
                if generates and "labels" in sample:
                    others[-1].append(_Part("accuracy", answers_right(baseline, sample, tokenizer), 1, "items"))
                found += [part for name in chosen if MEASURES[name] for part in _beside(name, ours, theirs)]
            parts.append(found)
            on_item(number, len(samples))
    return _scores(chosen, parts, others)


def _alone(model: PreTrainedModel, name: str, reading: Reading) -> list[_Part]:
    """Return what a measure of one model finds in an item: nothing where the item has no answer."""
    logits, targets = reading.logits, reading.targets
    if logits is None or targets is None or not len(targets):
        return []
    if name == "errors":
        blank = int(getattr(model.config, "pad_token_id", None) or 0)
        return [_Part("letter errors", letter_errors(logits, targets, blank), len(targets), "letters")]
    if len(logits) != len(targets):
        return []
    if name == "perplexity":
        loss = float(functional.cross_entropy(logits.float(), targets, reduction="sum"))
        return [_Part(LOSS, loss, len(targets), "answer tokens")]
    right = float((logits.argmax(dim=-1) == targets).sum())
    return [_Part("accuracy", right, len(targets), "items" if len(targets) == 1 else "tokens")]


def _beside(name: str, ours: Reading, theirs: Reading) -> list[_Part]:
    if name == "divergence":
        q, p = ours.logits, theirs.logits
        if q is None or p is None or not len(q):
            return []
        _check_shapes(q, p)
        divergence, same = compare(q, p.to(q.device))
        unit = "items" if len(q) == 1 else "tokens"
        return [
            _Part("divergence (nats)", divergence * len(q), len(q), unit),
            _Part("same top choice", same * len(q), len(q), unit),
        ]
    if name == "similarity":
        pairs = list(zip(ours.vectors, theirs.vectors, strict=True))
        cosines = [float(functional.cosine_similarity(a.float(), b.float().to(a.device), dim=0)) for a, b in pairs]
        return [_Part("cosine", sum(cosines), len(cosines), "vectors")] if cosines else []
    a, b = ours.hidden, theirs.hidden
    if a is None or b is None:
        return []
    _check_shapes(a, b)
    a, b = a.float(), b.float().to(a.device)
    away = (a - b).norm(dim=-1) / b.norm(dim=-1).clamp_min(torch.finfo(torch.float32).tiny)
    return [_Part("relative distance", float(away.sum()), len(away), "tokens")]


def _check_shapes(ours: Tensor, theirs: Tensor) -> None:
    if ours.shape != theirs.shape:
        raise EckartError(
            f"The model gives {tuple(ours.shape)} numbers for an item and the baseline {tuple(theirs.shape)}; expected "
            "models of one architecture."
        )


def _scores(chosen: Sequence[str], parts: list[list[_Part]], others: list[list[_Part]]) -> list[ItemScore]:
    names = dict.fromkeys(part.measure for item in parts for part in item)
    if not names:
        raise EckartError(
            f"Nothing can be measured: {', '.join(chosen)} of items that have no answer or label. Expected rows with "
            "an answer, captions, or folders named by their classes; or ask for divergence or similarity to a "
            "--baseline."
        )
    found = []
    for name in names:
        ours = {number: part for number, item in enumerate(parts) for part in item if part.measure == name}
        theirs = {number: part for number, item in enumerate(others) for part in item if part.measure == name}
        if not all(math.isfinite(part.total) for part in [*ours.values(), *theirs.values()]):
            raise EckartError(f"The {name} of an item is NaN or infinite: a model gives no usable numbers there.")
        unit = next((part.unit for part in ours.values() if part.unit != "items"), "items")
        found.append(
            score_of(
                name,
                [part.total for part in ours.values()],
                [part.count for part in ours.values()],
                unit,
                [theirs[number].total for number in ours] if theirs else None,
            )
        )
    return found
