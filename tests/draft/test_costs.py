from __future__ import annotations

import pytest
import torch
from tests.conftest import make_model
from transformers import MambaConfig, MambaForCausalLM

from eckart.draft.costs import time_steps
from eckart.errors import EckartError

PROMPT = torch.ones(1, 12, dtype=torch.int64)


def test_each_number_of_tokens_is_timed() -> None:
    model, draft = make_model("llama"), make_model("llama", seed=1)
    costs = time_steps(model, draft, PROMPT, 3, repeats=2)
    assert list(costs.model) == [1, 2, 3]
    assert min(costs.draft, *costs.model.values()) > 0


def test_a_pass_is_over_new_tokens_behind_the_same_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = make_model("llama"), []
    forward = model.forward

    def watched(**inputs: object) -> object:
        cache = inputs.get("cache")
        seen.append((inputs["input_ids"].shape[1], 0 if cache is None else cache.get_seq_length()))  # type: ignore[attr-defined]
        return forward(**inputs)

    watched.__signature__ = __import__("inspect").signature(forward)  # type: ignore[attr-defined]
    monkeypatch.setattr(model, "forward", watched)
    time_steps(model, make_model("llama"), PROMPT, 3, repeats=1)
    assert seen == [(12, 0), (1, 12), (2, 12), (3, 12), (1, 12), (2, 12), (3, 12)]


def test_a_model_that_cannot_forget_tokens_is_refused() -> None:
    config = MambaConfig(vocab_size=256, hidden_size=16, num_hidden_layers=1, state_size=4)
    model = MambaForCausalLM(config).eval()
    with pytest.raises(EckartError, match="MambaForCausalLM cannot be sped up by a draft"):
        time_steps(model, model, PROMPT, 2, repeats=1)
