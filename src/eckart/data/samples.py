"""Samples of any kind: what the forward of a model is handed for each, without padding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from eckart.errors import CalibrationError

Sample = Mapping[str, Tensor]
"""What the forward of a model is handed for one sample, by name; the first dimension is that of a batch of one."""

IDS, MASK, LABELS = "input_ids", "attention_mask", "labels"


def as_samples(items: Sequence[Any]) -> list[Sample]:
    """Return samples as they will be run: one at a time, on the CPU, and without padding at the ends.

    Args:
        items: of each, what the forward of the model is handed by name. One that is a batch of several is taken apart.

    Raises:
        CalibrationError: there is none, one is no mapping of names to tensors, or all of its tokens are padding.
    """
    found: list[Sample] = []
    for number, item in enumerate(items):
        is_mapping = isinstance(item, Mapping) or hasattr(item, "keys")  # what processors return is one too
        if not is_mapping or not all(isinstance(item[name], Tensor) for name in item) or not len(item):
            raise CalibrationError(
                f"Calibration sample {number} is no mapping of names to tensors, as the model's forward takes them; "
                f"found {type(item).__name__}."
            )
        tensors = {name: item[name].detach().cpu() for name in item}
        found += [without_padding(part, number) for part in _rows(tensors)]
    if not found:
        raise CalibrationError("There are no calibration samples. Expected at least one.")
    return found


def _rows(tensors: Sample) -> Iterator[Sample]:
    """Yield the rows of a batch, if it is one of several: if all its tensors have as many as it has rows of tokens."""
    rows = len(tensors[IDS]) if IDS in tensors and tensors[IDS].ndim == 2 else 1
    if rows == 1 or any(tensor.ndim == 0 or len(tensor) != rows for tensor in tensors.values()):
        yield tensors
        return
    for row in range(rows):
        yield {name: tensor[row : row + 1] for name, tensor in tensors.items()}


def without_padding(sample: Sample, number: int = 0) -> Sample:
    """Return a sample without the tokens that its attention mask leaves out at its ends.

    Args:
        sample: a batch of one.
        number: of it, for the error.

    Raises:
        CalibrationError: all tokens are left out.
    """
    mask = sample.get(MASK)
    if mask is None or mask.ndim != 2 or len(mask) != 1 or bool((mask != 0).all()):
        return sample
    seen = torch.nonzero(mask[0] != 0)[:, 0]
    if not len(seen):
        raise CalibrationError(
            f"All tokens of calibration sample {number} are padding: its attention mask holds only zeros."
        )
    start, end = int(seen[0]), int(seen[-1]) + 1
    length = mask.shape[1]
    return {
        name: tensor[:, start:end] if tensor.ndim >= 2 and tensor.shape[:2] == (1, length) else tensor
        for name, tensor in sample.items()
    }
