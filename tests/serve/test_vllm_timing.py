"""One run of an engine, timed, with a stand-in for vLLM."""

from __future__ import annotations

import sys
import time
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from eckart.serve.vllm_timing import time_once


def test_prompts_and_tokens_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    vllm = ModuleType("vllm")
    vllm.SamplingParams = lambda **fields: fields  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    seen: list[Any] = []

    def generate(prompts: Any, sampling: Any, **_: Any) -> None:
        seen.append((prompts, sampling["max_tokens"]))
        time.sleep(0.01 * sampling["max_tokens"])

    config = SimpleNamespace(get_vocab_size=lambda: 50)
    engine = SimpleNamespace(llm_engine=SimpleNamespace(model_config=config), generate=generate)
    found = time_once(engine, batch=3, prompt=7, generate=6, seed=1)
    assert [tokens for _, tokens in seen] == [1, 6]
    assert all([len(prompt["prompt_token_ids"]) for prompt in prompts] == [7] * 3 for prompts, _ in seen)
    assert seen[0][0] != seen[1][0]
    assert found["first_token"] >= 0.01
    assert found["decode"] > 0.01
