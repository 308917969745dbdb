"""Models that are timed in processes, with a stand-in for vLLM's."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from pathlib import Path

import pytest

from eckart.errors import ServingError
from eckart.evaluate.speed.compare import Rates
from eckart.evaluate.speed.served import compare_served

PROCESS = """
import json, sys
start = json.loads(sys.stdin.readline())
name = start["options"]["model"]
with open({log!r}, "a") as log:
    print("noise of an engine")
    print(start["mark"] + "{{}}", flush=True)
    for line in sys.stdin:
        if name == "ends":
            sys.exit(3)
        question = json.loads(line)
        print(name, question["batch"], question["seed"], file=log, flush=True)
        seconds = {{"first_token": 0.5, "decode": 2.0 if name == "dense" else 1.0}}
        print(start["mark"] + json.dumps(seconds), flush=True)
"""


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found = importlib.machinery.ModuleSpec("vllm", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found if name == "vllm" else None)
    script = tmp_path / "process.py"
    script.write_text(PROCESS.format(log=str(tmp_path / "log")))
    return [sys.executable, str(script)]


def test_models_take_turns(command: list[str], tmp_path: Path) -> None:
    seen = []
    found = compare_served(
        ["dense", "small"],
        batches=[1, 4],
        prompt=10,
        generate=9,
        repeats=2,
        on_run=lambda done, total: seen.append((done, total)),
        command=command,
    )
    lines = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    assert [line[:2] for line in lines] == [["dense", "1"], ["small", "1"], ["dense", "4"], ["small", "4"]] * 3
    assert len({line[2] for line in lines}) == 12  # each run has tokens of its own
    assert seen[-1] == (12, 12)
    assert [(speed.model, speed.batch) for speed in found] == [("dense", 1), ("small", 1), ("dense", 4), ("small", 4)]
    dense, small = found[2:]
    assert isinstance(dense, Rates)
    assert (dense.decode.median, small.decode.median) == (4 * 8 / 2, 4 * 8 / 1)
    assert dense.prefill.median == 4 * 10 / 0.5


def test_an_engine_that_ends(command: list[str]) -> None:
    with pytest.raises(ServingError, match="vLLM ended with 3 while it served ends"):
        compare_served(["dense", "ends"], command=command)


def test_without_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ServingError, match="vLLM is not installed here"):
        compare_served(["dense"])
