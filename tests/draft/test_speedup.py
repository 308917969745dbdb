from __future__ import annotations

import pytest
import torch

from eckart.draft.acceptance import Acceptance
from eckart.draft.costs import StepCosts
from eckart.draft.speedup import expected_speedup


def test_a_draft_that_is_always_right_and_free_is_asked_for_all_that_it_can() -> None:
    found = expected_speedup(Acceptance(torch.ones(1, 60, dtype=torch.bool)), StepCosts(0.0, {1: 1.0, 2: 1.0, 3: 1.0}))
    assert (found.proposals, found.tokens_per_round, found.factor) == (2, 3, 3)


def test_a_draft_that_is_never_right_costs_what_it_takes() -> None:
    found = expected_speedup(Acceptance(torch.zeros(1, 60, dtype=torch.bool)), StepCosts(0.5, {1: 1.0, 2: 1.0, 3: 1.0}))
    assert (found.proposals, found.tokens_per_round) == (1, 1)
    assert found.factor == pytest.approx(1 / 1.5)


def test_with_independent_agreements_it_is_the_published_formula() -> None:
    """Theorem 3.8 of arXiv 2211.17192."""
    alpha, step = 0.7, 0.2
    agrees = torch.rand(40, 5000, generator=torch.Generator().manual_seed(0)) < alpha
    found = expected_speedup(Acceptance(agrees), StepCosts(step, dict.fromkeys(range(1, 10), 1.0)))
    formula = {k: (1 - alpha ** (k + 1)) / ((1 - alpha) * (k * step + 1)) for k in range(1, 9)}
    assert found.proposals == max(formula, key=formula.__getitem__)
    assert found.factor == pytest.approx(max(formula.values()), rel=0.01)
