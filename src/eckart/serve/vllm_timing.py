"""A process that times one model in vLLM, for :mod:`eckart.evaluate.speed.served`: lines of JSON in and out."""

from __future__ import annotations

import json
import sys
from time import perf_counter
from typing import Any

import torch


def time_once(engine: Any, batch: int, prompt: int, generate: int, seed: int) -> dict[str, float]:
    """Return the seconds that prompts and the tokens behind them took, told apart by a run of one token.

    Args:
        engine: an ``LLM`` of vLLM.
        batch: prompts at once.
        prompt: random tokens of each.
        generate: tokens that each is continued by.
        seed: of the tokens.
    """
    from vllm import SamplingParams

    vocabulary = engine.llm_engine.model_config.get_vocab_size()
    # Other tokens each time: vLLM remembers the keys and values of a prompt that it has seen.
    drawn = torch.randint(vocabulary, (2, batch, prompt), generator=torch.Generator().manual_seed(seed))
    seconds = []
    for prompts, tokens in zip(drawn.tolist(), (1, generate), strict=True):
        sampling = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False)
        start = perf_counter()
        engine.generate([{"prompt_token_ids": tokens} for tokens in prompts], sampling, use_tqdm=False)
        seconds.append(perf_counter() - start)
    first, whole = seconds
    return {"first_token": first, "decode": max(whole - first, 1e-9)}


def main() -> None:
    """Load the model that the first line names, and answer the others."""
    from vllm import LLM

    start = json.loads(sys.stdin.readline())
    engine = LLM(**start["options"])
    print(start["mark"] + "{}", flush=True)
    for line in sys.stdin:
        print(start["mark"] + json.dumps(time_once(engine, **json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
