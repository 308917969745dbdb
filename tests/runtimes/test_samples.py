"""Inputs for models of all kinds, which they run on."""

from __future__ import annotations

import pytest
import torch
from tests import tiny
from tests.conftest import make_model

from eckart.blocks.block_arguments import completed
from eckart.errors import ExportError
from eckart.runtimes.samples import samples_for


@pytest.mark.parametrize("name", sorted(tiny.MAKERS))
def test_every_kind_runs_on_its_samples(name: str) -> None:
    model, processor = tiny.make(name)
    samples = samples_for(model, processor)
    assert samples
    for sample in samples:
        with torch.no_grad():
            assert model(**{k: v for k, v in completed(model, sample).items() if k != "labels"}) is not None


def test_texts_have_unequal_shapes_and_padding_where_a_model_writes() -> None:
    first, other = samples_for(make_model("llama"), None)
    assert first["input_ids"].shape != other["input_ids"].shape
    assert min(first["input_ids"].shape) > 1  # a dimension of 1 would be traced as one that stays so
    assert len(other["input_ids"]) == 1
    for sample in (first, other):
        assert int(sample["attention_mask"].sum()) < sample["input_ids"].numel()


def test_a_model_of_images_without_a_processor() -> None:
    model, _ = tiny.make("vit")
    first, other = samples_for(model, None)
    assert len(first["pixel_values"]) == 2
    assert len(other["pixel_values"]) == 1


def test_what_cannot_be_made_up_is_asked_for() -> None:
    model, processor = tiny.make("clip")
    with pytest.raises(ExportError, match=r"No sample inputs .*inputs=\{name: tensor"):
        samples_for(model, processor.tokenizer)
