from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tests.several import forks, values, warns
from transformers import PreTrainedModel

from eckart import processes
from eckart.errors import EckartError
from eckart.evaluate import agreement, perplexity
from eckart.evaluate.perplexity import perplexity_of


def test_equals_the_loss_of_transformers_window_by_window(llama: PreTrainedModel, tokens: torch.Tensor) -> None:
    ids = tokens.flatten()[:100]
    with torch.no_grad():
        losses = [float(llama(w[None], labels=w[None]).loss) for w in (ids[:30], ids[30:60], ids[60:90])]
    result = perplexity(llama, ids, length=30)
    assert result.windows == 3
    assert result.log_perplexity == pytest.approx(sum(losses) / 3, rel=1e-5)
    assert result.perplexity == pytest.approx(math.exp(sum(losses) / 3), rel=1e-4)
    assert perplexity(llama, ids, length=30, windows=2).log_perplexity == pytest.approx(sum(losses[:2]) / 2, rel=1e-5)
    assert perplexity(llama, ids, length=30, windows=99).windows == 3


def test_a_model_that_knows_nothing_is_as_uncertain_as_its_vocabulary(llama: PreTrainedModel) -> None:
    with torch.no_grad():
        llama.lm_head.weight.zero_()
    assert perplexity(llama, torch.arange(64), length=32).perplexity == pytest.approx(256, rel=1e-4)


def test_progress_is_told(llama: PreTrainedModel, tokens: torch.Tensor) -> None:
    seen = []
    perplexity(llama, tokens.flatten(), length=48, windows=3, on_window=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_text_shorter_than_a_window(llama: PreTrainedModel, tokens: torch.Tensor) -> None:
    with pytest.raises(EckartError, match="has 24 tokens, and one window is 25"):
        perplexity(llama, tokens[0], length=25)


def test_a_model_that_gives_nan(llama: PreTrainedModel, tokens: torch.Tensor) -> None:
    with torch.no_grad():
        llama.lm_head.weight[0] = torch.nan
    with pytest.raises(EckartError, match="NaN or infinite"):
        perplexity(llama, tokens[0], length=24)


def test_a_loss_of_any_size_has_a_perplexity_that_can_be_written() -> None:
    assert perplexity_of(0.0) == 1.0
    assert 1e300 < perplexity_of(1e6) < math.inf


@forks
@warns
def test_several_processes_find_what_one_does(llama: PreTrainedModel, tokens: torch.Tensor, tmp_path: Path) -> None:
    def work() -> list[str]:
        with processes.together():
            first = perplexity(llama, tokens.flatten(), length=48, windows=3)
            return [first.model_dump_json(), agreement(llama, llama, tokens.flatten(), length=48).model_dump_json()]

    assert values(2, work, tmp_path) == [work()] * 2
