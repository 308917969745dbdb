from __future__ import annotations

import pytest
import torch
from tests.conftest import CONFIGS, make_model

from eckart.evaluate.speed.passes import compiled_forward, run_once


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_tokens_are_those_of_transformers_own_generation(kind: str) -> None:
    model = make_model(kind)
    prompt = torch.randint(256, (2, 12), generator=torch.Generator().manual_seed(2))
    run = run_once(model, prompt, 6)
    expected = model.generate(
        prompt, max_new_tokens=6, min_new_tokens=6, do_sample=False, pad_token_id=0, eos_token_id=None
    )
    assert torch.equal(run.tokens, expected[:, 12:])
    assert len(run.steps) == 5
    assert run.first_token > 0
    assert min(run.steps) > 0


def test_the_cache_is_counted_in_bytes() -> None:
    model = make_model("llama")
    run = run_once(model, torch.ones(3, 10, dtype=torch.int64), 5)
    # 3 blocks, keys and values of 2 heads of 8 numbers of 4 bytes; the last token is not run.
    assert run.cache_bytes == 3 * 2 * 2 * 8 * 4 * 3 * 14


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_compiled_and_on_a_cache_of_fixed_size_the_tokens_are_the_same(kind: str) -> None:
    model = make_model(kind)
    prompt = torch.randint(256, (2, 12), generator=torch.Generator().manual_seed(2))
    run = run_once(model, prompt, 6, compiled_forward(model, "aot_eager"))
    assert torch.equal(run.tokens, run_once(model, prompt, 6).tokens)
    assert len(run.steps) == 5
