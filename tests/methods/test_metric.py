"""The output metric: its root, and where the labels of its gradients come from."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from eckart.errors import EckartError
from eckart.maths import solve, truncate
from eckart.maths.labels import NEXT_TOKENS, LabelSource
from eckart.maths.whitening import Whitening
from eckart.methods.metric import Fisher


def test_a_root_of_a_singular_moment_needs_some_shrinkage() -> None:
    gradient = torch.randn(5, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moment = gradient @ gradient.T
    root = Fisher(shrinkage=0.01).root(moment)
    mean = moment.diagonal().mean()
    torch.testing.assert_close(root.root @ root.root.T, moment + 0.01 * mean * torch.eye(5, dtype=torch.float64))
    torch.testing.assert_close(root.inverse @ root.root, torch.eye(5, dtype=torch.float64))
    with pytest.raises(EckartError, match=r"shrinkage of 1e-20.*shrinkage=0\.01"):
        Fisher(shrinkage=1e-20).root(moment)


@given(st.integers(0, 10**6), st.integers(1, 8), st.integers(1, 12))
def test_the_root_is_that_of_the_moment_and_its_shrinkage(seed: int, size: int, gradients: int) -> None:
    """By eigenvalues: each is raised by the same share of their mean, and the directions stay."""
    rows = torch.randn(gradients, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    moment = rows.T @ rows
    root = Fisher(shrinkage=0.1).root(moment)
    values = torch.linalg.eigvalsh(moment)
    found = torch.linalg.svdvals(root.root).square().sort().values
    torch.testing.assert_close(found, values.clamp_min(0) + 0.1 * values.mean(), rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(root.inverse @ root.root, torch.eye(size, dtype=torch.float64), atol=1e-8, rtol=0)


@pytest.mark.parametrize("size", [0.0, 1e-48])  # such as what underflows in float32
def test_where_no_gradient_was_seen_all_errors_weigh_the_same(size: float) -> None:
    root = Fisher().root(torch.full((3, 3), size, dtype=torch.float64))
    assert torch.equal(root.root, torch.eye(3, dtype=torch.float64))


def test_the_root_of_blocks_is_that_of_the_whole() -> None:
    rows = torch.randn(3, 7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    blocks = rows.mT @ rows
    found, whole = Fisher().root(blocks), Fisher().root(torch.block_diag(*blocks))
    torch.testing.assert_close(torch.block_diag(*found.root), whole.root)
    torch.testing.assert_close(torch.block_diag(*found.inverse), whole.inverse)
    none = Fisher().root(torch.zeros(3, 4, 4, dtype=torch.float64))
    assert torch.equal(torch.block_diag(*none.root), torch.eye(12, dtype=torch.float64))
    singular = rows[:, :1].mT @ rows[:, :1]
    with pytest.raises(EckartError, match="shrinkage"):
        Fisher(shrinkage=1e-20).root(singular)


def test_labels_are_drawn_or_the_text() -> None:
    assert Fisher().label_source == LabelSource(sampled=True)
    assert Fisher(top_k=5).label_source == LabelSource(sampled=True, top_k=5)
    assert Fisher(labels="next").label_source == NEXT_TOKENS
    assert Fisher(token_weights="gradient").weighs_tokens
    assert not Fisher().weighs_tokens


@pytest.mark.parametrize("wrong", [{"top_k": 1}, {"samples": 0}, {"shrinkage": 0}, {"labels": "last"}])
def test_numbers_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Fisher.model_validate(wrong)


@pytest.mark.parametrize("clip", [(2, 1), (-1, 1), (0, 0)])
def test_a_range_of_lengths_is_two_numbers_in_order(clip: tuple[float, float]) -> None:
    with pytest.raises(ValidationError, match=r"the smaller one first, such as clip=\[0\.1,10\]"):
        Fisher(clip=clip)


def test_rows_of_no_known_sequence_are_clipped_as_one_and_not_trimmed() -> None:
    rows = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    assert Fisher().rows(rows, 2) is rows
    assert torch.equal(Fisher(trim=0.25).rows(rows, None), rows)
    # Of four tokens the first and the last go; the others stand for all.
    torch.testing.assert_close(Fisher(trim=0.25).rows(rows, 2), rows[[1, 2, 5, 6]] * 2**0.5)
    torch.testing.assert_close(
        Fisher(trim=0.25, clip=(1, 1)).rows(rows, None), torch.nn.functional.normalize(rows) * rows.norm(dim=1).mean()
    )


def test_kfac_svd_is_the_exact_form_and_not_the_transposed_one() -> None:
    """Of ``tr(G D D^T)`` with G = [[1, 2], [2, 5]], W = S = 1 and rank 1 the minimum is 3 - 8^(1/2).

    The published code whitens with the lower root L in the place of its transpose: ``M = L W`` and ``U = L^-1 P``. It
    minimises the loss of another metric, ``L^T L``, and predicts a loss that it does not have.
    """
    metric = torch.tensor([[1.0, 2], [2, 5]], dtype=torch.float64)
    eye = torch.eye(2, dtype=torch.float64)

    def loss(weight: torch.Tensor) -> float:
        return float(((eye - weight).T @ metric @ (eye - weight)).trace())

    tiny = Fisher(shrinkage=1e-12)
    second, first = truncate(solve(Whitening.identity(2), None, eye, tiny.root(metric)), 1)
    assert loss(second @ first) == pytest.approx(3 - 8**0.5) == pytest.approx(0.17157, abs=1e-5)

    lower = torch.tensor([[1.0, 0], [2, 1]], dtype=torch.float64)
    torch.testing.assert_close(lower @ lower.T, metric)
    left, values, right = torch.linalg.svd(lower)
    published = torch.linalg.inv(lower) @ (left[:, :1] * values[0]) @ right[:1]
    assert float(values[1] ** 2) == pytest.approx(0.17157, abs=1e-5)  # which it predicts
    assert loss(published) == pytest.approx(3.0)


def test_damping_is_shrinkage_by_another_name() -> None:
    """``(1 - a) C + a mean(diag C) 1`` is that of a shrinkage of ``a / (1 - a)`` but for its size."""
    rows = torch.randn(9, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moment, damping = rows.T @ rows, 0.3
    root = Fisher(shrinkage=damping / (1 - damping)).root(moment)
    mean = moment.diagonal().mean() * torch.eye(5, dtype=torch.float64)
    assert isinstance(root, Whitening)
    torch.testing.assert_close((1 - damping) * root.second_moment, (1 - damping) * moment + damping * mean)
