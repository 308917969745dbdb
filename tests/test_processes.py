"""What several processes exchange, and what they say when they cannot."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.several import forks, in_processes, values, warns
from torch import Tensor

from eckart import processes
from eckart.errors import CheckpointError, ProcessError

HOST = torch.device("cpu")
pytestmark = [forks, warns]


def test_one_process_does_nothing() -> None:
    tensor = torch.ones(3)
    with processes.together():
        processes.add([tensor])
        assert processes.total(1, 2.5) == (1, 2.5)
        assert processes.give([1]) == [1]
        assert processes.gather("a") == ["a"]
        assert processes.give_tensors({"a": tensor})["a"] is tensor
        assert processes.add_found([None, tensor], HOST) == [None, tensor]
        assert (processes.rank(), processes.size(), processes.turn(), processes.label()) == (0, 1, None, "")
        assert list(processes.dealt(3)) == [0, 1, 2]
    assert tensor.tolist() == [1, 1, 1]


def test_processes_exchange_numbers_texts_and_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "PIECE", 5)

    def work() -> dict[str, Any]:
        with processes.together():
            me = processes.rank()
            small, large = torch.full((2, 2), float(me + 1)), torch.arange(13, dtype=torch.float64) * (me + 1)
            many = [torch.tensor([me + 1, n]) for n in range(4)]
            processes.add([small, large, *many, torch.empty(0)])
            found: list[Tensor | None] = [None, torch.ones(2) if me else None, torch.full((1,), me + 1.0)]
            halves = torch.tensor([1.5, me], dtype=torch.bfloat16)
            given = {"x": halves, "n": torch.tensor(7), "none": torch.empty(0, 2)}
            got = processes.give_tensors(given if me == 1 else None, 1)
            with processes.alone():
                by_itself = processes.size(), processes.total(1.0)
            return {
                "who": [me, processes.size(), processes.turn(), processes.neighbours(), processes.label()],
                "small": small.tolist(),
                "large": large.tolist(),
                "many": [tensor.tolist() for tensor in many],
                "found": [None if t is None else t.tolist() for t in processes.add_found(found, HOST)],
                "total": processes.total(me + 1, 0.5),
                "gather": processes.gather(["é" * me, None]),
                "give": processes.give({"a": me}, 1),
                "given": [got["x"].tolist(), str(got["x"].dtype), int(got["n"]), list(got["none"].shape)],
                "alone": by_itself,
                "first": processes.first(lambda: f"found by {me}"),
                "dealt": list(processes.dealt(5)),
            }

    first, second = values(2, work, tmp_path)
    assert first.pop("who") == [0, 2, 0, 2, "process 0"]
    assert second.pop("who") == [1, 2, 1, 2, "process 1"]
    assert (first.pop("dealt"), second.pop("dealt")) == ([0, 2, 4], [1, 3])
    assert first == second
    assert first == {
        "small": [[3, 3], [3, 3]],
        "large": [3.0 * n for n in range(13)],
        "many": [[3, 2 * n] for n in range(4)],
        "found": [None, [1, 1], [3]],
        "total": [3, 1],
        "gather": [["", None], ["é", None]],
        "give": {"a": 1},
        "given": [[1.5, 1], "torch.bfloat16", 7, [0, 2]],
        "alone": [1, [1.0]],
        "first": "found by 0",
    }


def test_sums_are_taken_in_the_order_of_the_processes(tmp_path: Path) -> None:
    numbers = [1e16, 1.0, -1e16]

    def work() -> Any:
        with processes.together():
            return processes.total(*[numbers[processes.rank()]] * 4)

    assert values(3, work, tmp_path) == [[sum(numbers)] * 4] * 3
    assert sum(numbers) == 0.0  # and 1 in another order


def test_what_stops_the_first_process_stops_all_and_is_told_once(tmp_path: Path) -> None:
    def fail() -> None:
        raise CheckpointError("There is no such folder.")

    def work() -> None:
        with processes.together():
            processes.first(fail)

    first, second = in_processes(2, work, tmp_path)
    assert (first.kind, second.kind) == ("CheckpointError", "ToldElsewhereError")
    assert second.error is not None
    assert "no such folder" in second.error


@pytest.mark.parametrize("way", ["raises", "killed"])
def test_those_who_wait_for_a_process_that_ends_are_told(way: str, tmp_path: Path) -> None:
    def work() -> None:
        with processes.together():
            if processes.rank() == 1:
                if way == "killed":
                    os.kill(os.getpid(), signal.SIGKILL)
                raise OSError("No space left on device")
            processes.wait()

    first, second = in_processes(2, work, tmp_path)
    assert (second.kind, second.signal) == (("OSError", None) if way == "raises" else (None, signal.SIGKILL))
    assert first.kind == "ProcessError"
    assert first.error is not None
    assert "Another process of the run has ended" in first.error


def test_shapes_that_differ_are_refused(tmp_path: Path) -> None:
    def work() -> None:
        with processes.together():
            processes.add_found([torch.ones(2 + processes.rank())], HOST)

    assert [ended.kind for ended in in_processes(2, work, tmp_path)] == ["ProcessError"] * 2


def test_several_processes_without_a_way_to_meet_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in processes.RENDEZVOUS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ProcessError, match=r"RANK, MASTER_ADDR, MASTER_PORT are not set.*--nproc-per-node 4"):
        processes.together().__enter__()
    monkeypatch.setenv("WORLD_SIZE", "many")
    with pytest.raises(ProcessError, match="WORLD_SIZE is 'many'"):
        processes.together().__enter__()


@pytest.mark.parametrize(("number", "speaks"), [("0", True), ("2", False)])
def test_the_first_process_speaks_before_they_meet(number: str, speaks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", number)
    assert processes.first_to_speak() == speaks
    assert processes.label() == f"process {number}"
