from __future__ import annotations

from torch import nn

from eckart.layers import is_linear


def test_a_subclass_of_linear_is_not_taken_for_one() -> None:
    class Special(nn.Linear):
        pass

    assert is_linear(nn.Linear(1, 1))
    assert not is_linear(Special(1, 1))
    assert not is_linear(nn.Embedding(2, 2))
