from __future__ import annotations

import pytest
import torch
from tests.conftest import make_model
from torch.nn import functional
from transformers import PreTrainedModel

from eckart.errors import EckartError
from eckart.evaluate import agreement


def test_equals_brute_force(llama: PreTrainedModel, tokens: torch.Tensor) -> None:
    other, ids = make_model("llama", seed=1), tokens.flatten()[:90]
    found = agreement(llama, other, ids, length=30)
    divergences, same = [], []
    with torch.no_grad():
        for start in (0, 30, 60):
            q = llama(ids[None, start : start + 30]).logits[0].double().log_softmax(-1)
            p = other(ids[None, start : start + 30]).logits[0].double().log_softmax(-1)
            divergences.append(float(functional.kl_div(q, p, log_target=True, reduction="batchmean")))
            same.append(float((q.argmax(-1) == p.argmax(-1)).double().mean()))
    assert found.divergence == pytest.approx(sum(divergences) / 3, rel=1e-5)
    assert found.divergence_error == pytest.approx(float(torch.tensor(divergences).std() / 3**0.5), rel=1e-4)
    assert found.top_1 == pytest.approx(sum(same) / 3)
    assert (found.windows, found.length) == (3, 30)


def test_a_model_agrees_with_itself(llama: PreTrainedModel, tokens: torch.Tensor) -> None:
    found = agreement(llama, llama, tokens.flatten(), length=24, windows=1)
    assert found.divergence == pytest.approx(0, abs=1e-6)
    assert found.top_1 == 1
    assert found.divergence_error is None


def test_another_vocabulary_is_refused(llama: PreTrainedModel, tokens: torch.Tensor) -> None:
    other = make_model("llama", seed=1)
    other.resize_token_embeddings(300)
    with pytest.raises(EckartError, match="predicts 256 tokens and the baseline 300"):
        agreement(llama, other, tokens.flatten(), length=24)


def test_a_model_that_gives_nan(llama: PreTrainedModel, tokens: torch.Tensor) -> None:
    other = make_model("llama", seed=1)
    with torch.no_grad():
        other.lm_head.weight[0] = torch.nan
    with pytest.raises(EckartError, match="NaN or infinite"):
        agreement(llama, other, tokens.flatten(), length=24)
