from __future__ import annotations

import pytest
import torch

from eckart.errors import EckartError
from eckart.evaluate.windows import count_windows, mean_and_error, windows_of


def test_windows_do_not_overlap_and_the_rest_is_left() -> None:
    assert [window.tolist() for window in windows_of(torch.arange(8), 3, None)] == [[[0, 1, 2]], [[3, 4, 5]]]
    assert count_windows(torch.arange(8), 3, 1) == 1
    assert count_windows(torch.arange(8), 3, 9) == 2


@pytest.mark.parametrize(("tokens", "length"), [(3, 4), (0, 2), (8, 1)])
def test_less_than_a_window(tokens: int, length: int) -> None:
    with pytest.raises(EckartError, match=f"has {tokens} tokens, and one window is {length}"):
        count_windows(torch.arange(tokens), length, None)


def test_mean_and_standard_error() -> None:
    mean, error = mean_and_error([1.0, 2.0, 6.0])
    assert mean == 3
    assert error == pytest.approx(float(torch.tensor([1.0, 2.0, 6.0]).std()) / 3**0.5)
    assert mean_and_error([4.0]) == (4.0, None)
