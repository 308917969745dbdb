from __future__ import annotations

from collections import UserDict
from typing import Any

import pytest
import torch

from eckart.data.samples import Sample, as_samples, without_padding
from eckart.errors import CalibrationError

IDS = torch.arange(12).reshape(2, 6)


def test_a_batch_of_several_is_taken_apart() -> None:
    pixels = torch.randn(2, 3, 4, 4)
    found = as_samples([{"input_ids": IDS, "pixel_values": pixels}, {"input_ids": IDS[:1]}])
    assert [sample["input_ids"].tolist() for sample in found] == [IDS[:1].tolist(), IDS[1:].tolist(), IDS[:1].tolist()]
    assert torch.equal(found[1]["pixel_values"], pixels[1:])


@pytest.mark.parametrize("other", [torch.randn(3, 8), torch.tensor(1.0)], ids=["patches of all", "a number"])
def test_a_batch_that_cannot_be_taken_apart_is_run_as_one(other: torch.Tensor) -> None:
    (found,) = as_samples([{"input_ids": IDS, "pixel_values": other}])
    assert torch.equal(found["input_ids"], IDS)
    assert torch.equal(found["pixel_values"], other)


def test_what_processors_return_is_a_mapping_too() -> None:
    (found,) = as_samples([UserDict(pixel_values=torch.zeros(4, 3, 2, 2, requires_grad=True))])
    assert found["pixel_values"].shape == (4, 3, 2, 2)  # frames of one sample; only rows of tokens make a batch
    assert not found["pixel_values"].requires_grad


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([], "There are no calibration samples"),
        ([{"input_ids": IDS}, IDS], "sample 1 is no mapping of names to tensors.*found Tensor"),
        ([{"input_ids": [1, 2]}], "sample 0 is no mapping of names to tensors"),
        ([{}], "sample 0 is no mapping"),
        ([{"input_ids": IDS, "attention_mask": torch.zeros(2, 6)}], "sample 0 are padding"),
    ],
)
def test_what_is_no_sample(items: list[Any], message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        as_samples(items)


@pytest.mark.parametrize(
    ("mask", "kept"),
    [
        ([1, 1, 1, 1, 0, 0], slice(0, 4)),
        ([0, 0, 1, 1, 1, 1], slice(2, 6)),
        ([0, 1, 0, 1, 1, 0], slice(1, 5)),  # a hole in the middle stays, with its zero in the mask
    ],
)
def test_padding_at_the_ends_goes(mask: list[int], kept: slice) -> None:
    sample = {
        "input_ids": IDS[:1],
        "attention_mask": torch.tensor([mask]),
        "labels": IDS[:1] + 100,
        "features": torch.randn(1, 6, 5),
        "pixel_values": torch.randn(1, 3, 6, 6),
        "positions": torch.randn(6),
    }
    found = without_padding(sample)
    for name in ("input_ids", "attention_mask", "labels", "features"):
        assert torch.equal(found[name], sample[name][:, kept]), name
    for name in ("pixel_values", "positions"):
        assert found[name] is sample[name]


@pytest.mark.parametrize("mask", [torch.ones(1, 6), torch.tril(torch.ones(1, 6, 6)), torch.tensor([[1] * 6, [0] * 6])])
def test_masks_that_leave_out_no_end_change_nothing(mask: torch.Tensor) -> None:
    sample: Sample = {"input_ids": IDS[:1], "attention_mask": mask}
    assert without_padding(sample) is sample
