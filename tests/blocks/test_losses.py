"""The losses of what models predict, against sums over single predictions."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from eckart.blocks.losses import IGNORED, divergence, gives_logits, model_loss, predictions
from eckart.errors import UnsupportedModelError
from eckart.maths.labels import LabelSource

CLASSES = 5


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def with_logits(logits: Tensor) -> SimpleNamespace:
    return SimpleNamespace(logits=logits)


def ids(*shape: int) -> Tensor:
    return torch.randint(CLASSES, shape, generator=torch.Generator().manual_seed(7))


def loss_of(logits: Tensor, label: Tensor) -> float:
    return float(-logits.double().log_softmax(-1)[label])


def test_predictions_are_logits_or_the_first_numbers_with_a_point() -> None:
    logits, vectors = normal(1, 2, 3), normal(2, 4)
    assert predictions(SimpleNamespace(logits=logits, other=vectors)) is logits
    assert predictions((ids(2), {"a": vectors}, logits)) is vectors
    assert (gives_logits(with_logits(logits)), gives_logits((logits,))) == (True, False)
    with pytest.raises(UnsupportedModelError, match="returns tuple without numbers"):
        predictions((ids(2),))


def test_tokens_are_the_labels_of_the_places_in_front_of_them() -> None:
    logits, tokens = normal(2, 4, CLASSES), ids(2, 4)
    loss, count = model_loss(with_logits(logits), {"input_ids": tokens})
    expected = sum(loss_of(logits[row, place], tokens[row, place + 1]) for row in range(2) for place in range(3))
    assert count == 6
    assert float(loss) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("predicts_next", [True, False])
def test_labels_come_before_tokens_and_some_do_not_count(predicts_next: bool) -> None:
    logits, tokens, labels = normal(1, 5, CLASSES), ids(1, 5), ids(1, 5)
    labels[0, :3] = IGNORED
    inputs = {"input_ids": tokens, "labels": labels}
    loss, count = model_loss(with_logits(logits), inputs, predicts_next=predicts_next)
    places = [(place - predicts_next, place) for place in (3, 4)]
    assert count == 2
    assert float(loss) == pytest.approx(sum(loss_of(logits[0, p], labels[0, q]) for p, q in places), rel=1e-5)


def test_a_label_for_each_sample() -> None:
    logits, labels = normal(3, CLASSES), torch.tensor([0, 4, 2])
    inputs = {"input_ids": ids(3, 9), "labels": labels}
    loss, count = model_loss(with_logits(logits), inputs)
    assert count == 3
    assert float(loss) == pytest.approx(sum(map(loss_of, logits, labels)), rel=1e-5)


@pytest.mark.parametrize("source", [LabelSource(), LabelSource(sampled=True), LabelSource(sampled=True, top_k=2)])
def test_labels_that_are_drawn_follow_the_predictions(source: LabelSource) -> None:
    """Where there are none, or where that is asked for; in expectation the loss is the entropy."""
    logits = normal(1, 1, CLASSES).repeat(1, 20000, 1)
    inputs = {} if not source.sampled else {"labels": torch.zeros(1, 20000, dtype=torch.int64)}
    generator = torch.Generator().manual_seed(0)
    loss, count = model_loss(with_logits(logits), inputs, source, generator, predicts_next=False)
    kept = logits[0, 0].topk(source.top_k or CLASSES).values.double()
    entropy = -(kept.softmax(-1) * kept.log_softmax(-1)).sum()
    assert count == 20000
    assert float(loss) / count == pytest.approx(float(entropy), rel=0.02)


def test_vectors_are_pulled_in_a_random_direction() -> None:
    vectors = normal(1, 3, 4000).requires_grad_(True)
    losses = []
    for _ in range(2):
        loss, count = model_loss((vectors,), {"input_ids": ids(1, 3)}, generator=torch.Generator().manual_seed(3))
        losses.append(loss)
    (gradient,) = torch.autograd.grad(losses[0], vectors)
    assert torch.equal(*losses)
    assert count == 3
    assert float(gradient.square().mean()) == pytest.approx(1, rel=0.05)
    assert abs(float(gradient.mean())) < 0.05


@pytest.mark.parametrize("predicts_next", [True, False])
def test_divergence_is_that_of_the_odds_at_the_places_that_predict_labels(predicts_next: bool) -> None:
    ours, theirs, labels = normal(1, 4, CLASSES), normal(1, 4, CLASSES, seed=1), ids(1, 4)
    labels[0, :2] = IGNORED
    p, q = theirs[0].double().softmax(-1), ours[0].double().softmax(-1)
    each = (p * (p / q).log()).sum(-1)
    loss, count = divergence(with_logits(ours), with_logits(theirs), {})
    assert count == 4
    assert float(loss) == pytest.approx(float(each.sum()), rel=1e-5)
    loss, count = divergence(with_logits(ours), with_logits(theirs), {"labels": labels}, predicts_next=predicts_next)
    places = slice(1, 3) if predicts_next else slice(2, 4)
    assert count == 2
    assert float(loss) == pytest.approx(float(each[places].sum()), rel=1e-5)


def test_divergence_of_vectors_is_half_their_squared_distance() -> None:
    ours, theirs = normal(1, 3, 4), normal(1, 3, 4, seed=1)
    loss, count = divergence((ours,), (theirs,), {"labels": ids(1, 3)})
    assert count == 3
    assert float(loss) == pytest.approx(float(functional.mse_loss(ours, theirs, reduction="sum")) / 2, rel=1e-6)


def test_divergence_may_leave_out_the_first_places_and_flatten_the_odds() -> None:
    ours, theirs, labels = normal(2, 4, CLASSES), normal(2, 4, CLASSES, seed=1), ids(2, 4)
    p, q = (theirs.double() / 0.6).softmax(-1), (ours.double() / 0.6).softmax(-1)
    each = (p * (p / q).log()).sum(-1)

    def found(inputs: dict[str, Tensor], **options: Any) -> Any:
        loss, count = divergence(with_logits(ours), with_logits(theirs), inputs, temperature=0.6, **options)
        return float(loss), count

    assert found({}, first=1) == (pytest.approx(float(each[:, 1:].sum()), rel=1e-5), 6)
    # Shorter sequences count as a whole; so do predictions that are of no next token.
    assert found({}, first=4) == (pytest.approx(float(each.sum()), rel=1e-5), 8)
    assert found({}, first=1, predicts_next=False)[1] == 8
    labels[:, :3] = IGNORED  # what predicts the last one is the place in front of it
    assert found({"labels": labels}, first=2) == (pytest.approx(float(each[:, 2].sum()), rel=1e-5), 2)
    assert found({"labels": labels}, first=3)[1] == 2
