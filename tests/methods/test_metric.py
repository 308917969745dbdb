"""The output metric: its root, and where the labels of its gradients come from."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from eckart.errors import EckartError
from eckart.maths.labels import NEXT_TOKENS, LabelSource
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
