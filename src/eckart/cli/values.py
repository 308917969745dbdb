"""What options hold as text: sizes and dtypes."""

from __future__ import annotations

import math

import torch

from eckart.errors import EckartError

UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def size_in_bytes(option: str, size: str | None) -> int | None:
    """Return the bytes that an option asks for, or None if it is not given.

    Raises:
        EckartError: it is no size.
    """
    try:
        return None if size is None else parse_bytes(size)
    except ValueError:
        raise EckartError(f"{option} takes a size such as 8GB or 500MB, found {size!r}.") from None


def dtype_called(name: str) -> torch.dtype | None:
    """Return the dtype of a name, or None for ``auto``.

    Raises:
        EckartError: there is none of that name.
    """
    if name == "auto":
        return None
    if name not in DTYPES:
        raise EckartError(f"No dtype is called {name!r}. Use auto, {', '.join(DTYPES)}.")
    return DTYPES[name]


def parse_bytes(text: str) -> int:
    """Return the bytes that a size such as ``8GB`` or ``500 MB`` stands for.

    Raises:
        ValueError: it is no size of a byte or more.
    """
    number = text.strip().upper().rstrip("KMGTB")
    unit = text.strip().upper()[len(number) :] or "B"
    size = float(number) * UNITS.get(unit if unit.endswith("B") else f"{unit}B", math.nan)
    if not 1 <= size < math.inf:
        raise ValueError(f"no size of a byte or more: {text!r}")
    return int(size)
