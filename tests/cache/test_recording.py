from __future__ import annotations

import pytest
import torch
from tests.cache.helpers import factored
from tests.conftest import make_model
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from eckart.cache.recording import TOKENS, record
from eckart.errors import EckartError


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3"])
def test_both_passes_of_all_attention_modules(kind: str) -> None:
    model = factored(kind)
    model.train()
    before = {name: dict(vars(module)) for name, module in model.named_modules()}
    recordings = record(model)
    assert model.training
    assert len(recordings) == model.config.num_hidden_layers
    for recording in recordings:
        assert recording.is_complete()
        assert recording.layer_class in (DynamicLayer, DynamicSlidingWindowLayer)
        states = recording.whole_states()
        assert states.keys.shape[2] == states.values.shape[2] == sum(TOKENS)
        for number, source in enumerate(recording.sources):
            latents = recording.whole_latents(number)
            assert latents is not None
            assert latents.shape == (2, sum(TOKENS), source.rank)
    for name, module in model.named_modules():
        assert vars(module).keys() - before[name].keys() <= {"on_latents"}
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_the_cache_is_what_it_was_behind_a_pass() -> None:
    recordings = record(factored())
    for recording in recordings:
        for call in recording.calls:
            assert "update" not in vars(call.cache)


def test_a_source_that_runs_on_other_tokens_has_no_latents() -> None:
    recording = record(factored())[0]
    recording.latents[0][0] = recording.latents[0][0][:, :3]
    recording.latents.pop(1)
    assert recording.whole_latents(0) is None
    assert recording.whole_latents(1) is None
    assert recording.whole_latents(2) is not None


def test_models_without_a_cache_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model()
    forward = type(model).forward

    def without(self: PreTrainedModel, *args: object, **kwargs: object) -> dict[str, torch.Tensor]:
        return {"logits": forward(self, *args, **kwargs).logits}

    monkeypatch.setattr(type(model), "forward", without)
    with pytest.raises(EckartError, match="returns no DynamicCache"):
        record(model)

    def failing(self: PreTrainedModel, input_ids: torch.Tensor, **kwargs: object) -> object:
        raise ValueError("images are missing")

    monkeypatch.setattr(type(model), "forward", failing)
    with pytest.raises(EckartError, match="does not run on tokens alone: ValueError: images are missing"):
        record(model)
    assert not any(module._forward_hooks for module in model.modules())
