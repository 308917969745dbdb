"""A process that runs vLLM: a line of JSON in, a line of JSON out, so that what vLLM sets is not set in the tests."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ANSWER = "ANSWER "
SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}
OPTIONS = {"dtype": "float32", "max_model_len": 128, "max_num_seqs": 8, "enforce_eager": True, "seed": 0}


class Engine:
    """The process, from the first question on.

    Args:
        several: whether vLLM starts processes of its own, as it must for several devices.
    """

    def __init__(self, *, several: bool = False) -> None:
        settings = {**SETTINGS, "VLLM_ENABLE_V1_MULTIPROCESSING": "1" if several else "0"}
        if several:  # else it wants a node of memory for each
            settings["VLLM_CPU_OMP_THREADS_BIND"] = "0|1"
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **settings},
        )

    def ask(self, folder: Path, prompts: list[list[int]], tokens: int = 64, **options: Any) -> list[list[int]] | str:
        """Return the most likely tokens behind each prompt, or what was raised: its class and text."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        question = {"folder": str(folder), "prompts": prompts, "tokens": tokens, "options": options}
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith(ANSWER):
                answer: list[list[int]] | str = json.loads(line.removeprefix(ANSWER))
                return answer
        raise AssertionError(f"the process of the engine ended with {self.process.wait()}")

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def answer(question: dict[str, Any]) -> list[list[int]] | str:
    """Load a folder and return the tokens, or what was raised."""
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    options = {**OPTIONS, "skip_tokenizer_init": True, **question["options"]}
    adapter = options.pop("adapter", None)
    engine = None
    try:
        engine = LLM(question["folder"], **options)
        sampling = SamplingParams(temperature=0, max_tokens=question["tokens"], ignore_eos=True, detokenize=False)
        prompts = [{"prompt_token_ids": prompt} for prompt in question["prompts"]]
        request = None if adapter is None else LoRARequest("adapter", 1, adapter)
        outputs = engine.generate(prompts, sampling, use_tqdm=False, lora_request=request)
        return [list(output.outputs[0].token_ids) for output in outputs]
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        del engine
        gc.collect()


def main() -> None:
    """Answer line by line."""
    for line in sys.stdin:
        print(ANSWER + json.dumps(answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
