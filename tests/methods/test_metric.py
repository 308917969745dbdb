"""Labels that are drawn from predictions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eckart.errors import EckartError
from eckart.maths.labels import label_loss
from eckart.methods.metric import Fisher


def drawn(logits: torch.Tensor, metric: Fisher, seed: int = 0) -> torch.Tensor:
    """Return the labels of one sequence: the gradient of the cross-entropy is the prediction less the label."""
    leaf = logits[None].clone().requires_grad_(True)
    generator = torch.Generator().manual_seed(seed)
    loss, count = label_loss(leaf, torch.zeros(1, len(logits), dtype=torch.int64), metric.label_source, generator)
    assert count == len(logits)
    (gradient,) = torch.autograd.grad(loss, leaf)
    one_hot = logits.softmax(-1) - gradient[0]
    assert torch.allclose(one_hot.sum(-1), torch.ones(len(logits)), atol=1e-4)
    return one_hot.argmax(-1)


def test_labels_are_as_frequent_as_they_are_likely() -> None:
    odds = torch.tensor([0.5, 0.0, 0.3, 0.15, 0.05, 0.0])
    labels = drawn(odds.log().clamp_min(-1e4).expand(20_000, -1), Fisher(top_k=None))
    found = torch.bincount(labels, minlength=6) / len(labels)
    assert found[[1, 5]].tolist() == [0, 0]
    # Five standard deviations.
    assert torch.all((found - odds).abs() <= 5 * (odds * (1 - odds) / len(labels)).sqrt())


@given(st.integers(0, 10**6))
def test_what_is_certain_is_drawn(seed: int) -> None:
    certain = torch.randint(0, 11, (7,), generator=torch.Generator().manual_seed(seed))
    logits = torch.full((7, 11), -1e4).scatter(1, certain[:, None], 0.0)
    assert torch.equal(drawn(logits, Fisher(top_k=None), seed), certain)


def test_a_seed_gives_the_same_labels() -> None:
    logits = torch.randn(64, 50, generator=torch.Generator().manual_seed(0))
    first, again, other = (drawn(logits, Fisher(top_k=None), seed) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_leading_tokens_alone() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0, 2.0]]).expand(500, -1)
    assert set(drawn(logits, Fisher(top_k=2)).tolist()) == {1, 3}


def test_the_text_gives_its_own_labels() -> None:
    logits, tokens = torch.randn(2, 5, 9), torch.randint(0, 9, (2, 5))
    loss, count = label_loss(logits, tokens)
    expected = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum")
    assert count == 8
    assert float(loss) == pytest.approx(float(expected))


def test_a_root_of_a_singular_moment_needs_some_shrinkage() -> None:
    gradient = torch.randn(5, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moment = gradient @ gradient.T
    root = Fisher(shrinkage=0.01).root(moment)
    mean = moment.diagonal().mean()
    torch.testing.assert_close(root.root @ root.root.T, moment + 0.01 * mean * torch.eye(5, dtype=torch.float64))
    torch.testing.assert_close(root.inverse @ root.root, torch.eye(5, dtype=torch.float64))
    with pytest.raises(EckartError, match=r"shrinkage of 1e-20.*shrinkage=0\.01"):
        Fisher(shrinkage=1e-20).root(moment)
