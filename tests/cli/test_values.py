"""Sizes and dtypes as users write them."""

from __future__ import annotations

import pytest

from eckart.cli.values import parse_bytes, size_in_bytes
from eckart.errors import EckartError


def test_a_size_is_read_or_refused() -> None:
    assert size_in_bytes("--memory", None) is None
    assert size_in_bytes("--memory", "1.5GB") == 1_500_000_000
    with pytest.raises(EckartError, match="--memory takes a size such as 8GB or 500MB, found 'much'"):
        size_in_bytes("--memory", "much")


@pytest.mark.parametrize(
    ("text", "expected"), [("8GB", 8 * 10**9), ("500 mb", 5 * 10**8), ("1.5G", 15 * 10**8), ("123", 123), ("2kB", 2000)]
)
def test_sizes(text: str, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize(
    "text", ["", "GB", "8XB", "8GBB", "much", "-1GB", "0", "0GB", "0.5", "nan", "nanGB", "inf", "-infMB", "1e400GB"]
)
def test_no_sizes(text: str) -> None:
    with pytest.raises(ValueError, match=r"no size of a byte or more|could not convert"):
        parse_bytes(text)
