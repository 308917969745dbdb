from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import BatchEncoding

from eckart.data.samples import as_samples, without_padding
from eckart.errors import CalibrationError


def test_samples_stay_as_they_are() -> None:
    items = [{"input_ids": torch.arange(n)[None], "pixel_values": torch.randn(1, 3, 4, 4)} for n in (3, 5)]
    found = as_samples(items)
    assert len(found) == 2
    for sample, item in zip(found, items, strict=True):
        assert sample.keys() == item.keys()
        assert all(torch.equal(sample[name], tensor) for name, tensor in item.items())


def test_a_batch_is_taken_apart_and_its_padding_left_out() -> None:
    ids = torch.tensor([[1, 2, 3, 0], [4, 5, 0, 0], [0, 0, 6, 7]])
    batch = BatchEncoding({"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": torch.tensor([5, 6, 7])})
    found = as_samples([batch])
    assert [sample["input_ids"].tolist() for sample in found] == [[[1, 2, 3]], [[4, 5]], [[6, 7]]]
    assert all(bool(sample["attention_mask"].all()) for sample in found)
    assert [sample["labels"].tolist() for sample in found] == [[5], [6], [7]]


def test_what_does_not_belong_to_rows_keeps_a_batch_together() -> None:
    """As patches of all images of a batch in one tensor: whose they are is not known."""
    batch = {"input_ids": torch.ones(2, 5), "pixel_values": torch.randn(12, 7)}
    (sample,) = as_samples([batch])
    assert sample["pixel_values"].shape == (12, 7)


def test_padding_between_tokens_stays() -> None:
    mask = torch.tensor([[0, 1, 0, 1, 0]])
    sample = {
        "input_ids": torch.arange(5)[None],
        "attention_mask": mask,
        "token_type_ids": mask,
        "states": torch.arange(10).reshape(1, 5, 2),
        "pixel_values": torch.ones(1, 3, 5),
    }
    found = without_padding(sample)
    assert found["input_ids"].tolist() == [[1, 2, 3]]
    assert found["attention_mask"].tolist() == [[1, 0, 1]]
    assert found["states"].tolist() == [[[2, 3], [4, 5], [6, 7]]]
    assert found["pixel_values"].shape == (1, 3, 5)
    whole = {"input_ids": torch.arange(5)[None], "attention_mask": torch.ones(1, 5)}
    assert without_padding(whole) is whole


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([], "no calibration samples"),
        ([{"input_ids": [1, 2]}], "sample 0 is no mapping of names to tensors.* found dict"),
        ([{"input_ids": torch.ones(1, 2)}, torch.ones(1, 2)], "sample 1 is no mapping.*found Tensor"),
        ([{}], "sample 0"),
        (
            [{"input_ids": torch.ones(1, 2), "attention_mask": torch.zeros(1, 2)}],
            "All tokens of calibration sample 0 are padding",
        ),
    ],
)
def test_what_is_no_sample_is_refused(items: list[Any], message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        as_samples(items)
