from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_cosine_schedule_with_warmup

from eckart.methods.training.schedule import learning_rate_factor


def test_the_published_numbers() -> None:
    # 25 epochs of 8 steps: 20 steps of warm-up, the first with no step at all, and a tenth at the end.
    factors = [learning_rate_factor(step, 200, 0.1, 0.1) for step in range(201)]
    assert factors[0] == 0
    assert factors[10] == 0.5
    assert factors[20] == 1
    assert factors[110] == pytest.approx(0.55)
    assert factors[200] == pytest.approx(0.1)


@given(st.integers(1, 300), st.floats(0, 0.9))
def test_it_is_the_cosine_of_transformers_where_it_ends_at_zero(steps: int, warmup: float) -> None:
    import torch

    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = get_cosine_schedule_with_warmup(optimizer, int(warmup * steps), steps)
    assert isinstance(theirs, LambdaLR)
    for step in range(0, steps, max(1, steps // 7)):
        assert math.isclose(learning_rate_factor(step, steps, warmup, 0.0), theirs.lr_lambdas[0](step), abs_tol=1e-12)
