from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from eckart.blocks.finite import check_finite, is_finite
from eckart.errors import NonFiniteError

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]


@given(st.lists(st.floats(width=16), min_size=1, max_size=40), st.sampled_from([torch.float32, torch.bfloat16]))
def test_one_number_that_is_none_is_enough(numbers: list[float], dtype: torch.dtype) -> None:
    assert is_finite(torch.tensor(numbers, dtype=dtype)) == all(math.isfinite(number) for number in numbers)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_float_dtype_is_looked_at(dtype: torch.dtype) -> None:
    tensor = torch.ones(3, 5).to(dtype)
    assert is_finite(tensor)
    tensor.view(torch.uint8)[-1, -1] = 0x7F  # the highest bits of the last number: NaN, in every one of them
    tensor.view(torch.uint8)[-1, -2 if dtype.itemsize > 1 else -1] = 0xFF
    assert not is_finite(tensor)


def test_what_holds_no_floats_is_finite() -> None:
    assert is_finite(torch.empty(0))
    assert is_finite(torch.empty(2, device="meta"))
    assert is_finite(torch.tensor([2**31 - 1]))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Linear(2, 2)
        self.blocks = nn.ModuleList(nn.Linear(2, 2) for _ in range(2))


def test_the_parameter_is_named_with_its_path() -> None:
    net = Net()
    check_finite(net)
    with torch.no_grad():
        net.blocks[1].bias[0] = math.inf  # type: ignore[operator]
    with pytest.raises(NonFiniteError, match=r"The bias of blocks\.1 is NaN or infinite"):
        check_finite(net)
    with pytest.raises(NonFiniteError, match=r"The bias of model\.blocks\.1 is"):
        check_finite(net, "model")
    with pytest.raises(NonFiniteError, match=r"The bias of Linear is"):
        check_finite(net.blocks[1])


def test_parts_that_are_skipped_are_not_looked_at() -> None:
    net = Net()
    with torch.no_grad():
        net.blocks[0].weight[0, 0] = math.nan  # type: ignore[operator]
    check_finite(net, skip=(None, net.blocks))
    check_finite(net, skip=(net.blocks[0],))
    with pytest.raises(NonFiniteError, match=r"blocks\.0"):
        check_finite(net, skip=(net.blocks[1], net.front))
