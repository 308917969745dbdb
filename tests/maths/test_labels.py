"""Labels that are drawn from predictions, and those of the text."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eckart.maths.labels import LabelSource, label_loss


def drawn(logits: torch.Tensor, source: LabelSource, seed: int = 0) -> torch.Tensor:
    """Return the labels of one sequence: the gradient of the cross-entropy is the prediction less the label."""
    leaf = logits[None].clone().requires_grad_(True)
    generator = torch.Generator().manual_seed(seed)
    loss, count = label_loss(leaf, torch.zeros(1, len(logits), dtype=torch.int64), source, generator)
    assert count == len(logits)
    (gradient,) = torch.autograd.grad(loss, leaf)
    one_hot = logits.softmax(-1) - gradient[0]
    assert torch.allclose(one_hot.sum(-1), torch.ones(len(logits)), atol=1e-4)
    return one_hot.argmax(-1)


def test_labels_are_as_frequent_as_they_are_likely() -> None:
    odds = torch.tensor([0.5, 0.0, 0.3, 0.15, 0.05, 0.0])
    labels = drawn(odds.log().clamp_min(-1e4).expand(20_000, -1), LabelSource(sampled=True))
    found = torch.bincount(labels, minlength=6) / len(labels)
    assert found[[1, 5]].tolist() == [0, 0]
    # Five standard deviations.
    assert torch.all((found - odds).abs() <= 5 * (odds * (1 - odds) / len(labels)).sqrt())


@given(st.integers(0, 10**6))
def test_what_is_certain_is_drawn(seed: int) -> None:
    certain = torch.randint(0, 11, (7,), generator=torch.Generator().manual_seed(seed))
    logits = torch.full((7, 11), -1e4).scatter(1, certain[:, None], 0.0)
    assert torch.equal(drawn(logits, LabelSource(sampled=True), seed), certain)


def test_a_seed_gives_the_same_labels() -> None:
    logits = torch.randn(64, 50, generator=torch.Generator().manual_seed(0))
    first, again, other = (drawn(logits, LabelSource(sampled=True), seed) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_leading_tokens_alone() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0, 2.0]]).expand(500, -1)
    assert set(drawn(logits, LabelSource(sampled=True, top_k=2)).tolist()) == {1, 3}


def test_the_text_gives_its_own_labels() -> None:
    logits, tokens = torch.randn(2, 5, 9), torch.randint(0, 9, (2, 5))
    loss, count = label_loss(logits, tokens)
    expected = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum")
    assert count == 8
    assert float(loss) == pytest.approx(float(expected))


def test_more_leading_tokens_than_there_are_are_all() -> None:
    logits = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
    few, whole = (drawn(logits.sort(descending=True).values, LabelSource(True, top_k)) for top_k in (9, None))
    assert torch.equal(few, whole)


def test_losses_of_16_bits_are_summed_in_32() -> None:
    """A sum of 4000 losses of 5.5 nats is 22000, of which bfloat16 has no two digits."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(8, 501, 256, generator=generator).bfloat16()
    tokens = torch.randint(256, (8, 501), generator=generator)
    loss, count = label_loss(logits, tokens)
    assert (loss.dtype, count) == (torch.float32, 4000)
    exact = logits.double()[:, :-1].log_softmax(-1).gather(-1, tokens[:, 1:, None]).sum()
    assert float(loss) == pytest.approx(-float(exact), rel=1e-5)
