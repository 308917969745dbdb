"""Parts of a model, and what each is run with."""

from __future__ import annotations

import pytest
import torch
from tests import tiny
from tests.conftest import make_model
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache

from eckart.errors import ExportError
from eckart.runtimes.samples import samples_for
from eckart.runtimes.stages import MODEL, Call, checked_calls, traced_calls, writes_with_one_graph


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("llama", [MODEL]),
        ("bert-masked", [MODEL]),
        ("vit", [MODEL]),
        ("t5", ["prefill", "decode"]),
    ],
)
def test_parts_by_kind(name: str, parts: list[str]) -> None:
    model, processor = tiny.make(name)
    sample = samples_for(model, processor)[0]
    with torch.no_grad():
        traced = traced_calls(model, sample)
        assert sorted(call.part for call in traced) == sorted(parts)
        for call in checked_calls(model, sample, parts):
            assert call.part in parts
            assert call.module(**call.fed(None)) is not None


def test_a_model_of_which_a_part_would_be_left_out_is_refused() -> None:
    model, processor = tiny.make("llava")
    with pytest.raises(ExportError, match=r"LlavaForConditionalGeneration reads more than text, .* leave out"):
        traced_calls(model, samples_for(model, processor)[0])


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_a_prompt_and_a_further_token_give_what_the_whole_text_gives(kind: str) -> None:
    model: PreTrainedModel = make_model(kind)
    sample = {"input_ids": torch.arange(5)[None], "attention_mask": torch.ones(1, 5, dtype=torch.int64)}
    assert writes_with_one_graph(model)
    with torch.no_grad():
        prompt, further = checked_calls(model, sample, [MODEL])
        first = model(**prompt.fed(None))
        second = model(**further.fed(first))
        ids = torch.cat([sample["input_ids"], further.inputs["input_ids"]], dim=1)
        expected = model(ids).logits
    torch.testing.assert_close(torch.cat([first.logits, second.logits], dim=1), expected)


def test_a_cache_goes_from_call_to_call() -> None:
    before, own = DynamicCache(), DynamicCache()
    call = Call(MODEL, torch.nn.Identity(), {"cache": own, "input_ids": torch.zeros(1, 1)}, continues=True)
    assert call.fed({"logits": torch.ones(1), "cache": before})["cache"] is before
    assert call.fed(None)["cache"] is not own  # a copy: a run writes into it


def test_models_of_several_parts_are_not_one_graph() -> None:
    assert not writes_with_one_graph(tiny.make("t5")[0])
    assert not writes_with_one_graph(tiny.make("llava")[0])
    assert not writes_with_one_graph(tiny.make("vit")[0])
