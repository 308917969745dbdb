"""Runs a function in several processes that work as one: forks, which is fast, of the test's own process."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

LONGEST = 400.0  # seconds; what takes so long has got stuck

forks = pytest.mark.skipif(os.name != "posix", reason="forks")
# Of forking, and of so few samples.
warns = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::eckart.errors.EckartWarning")


class Ended:
    """How a process ended: what its function returned, or the error that it raised, or the signal that killed it."""

    def __init__(self, status: int, path: Path) -> None:
        self.signal = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        found = json.loads(path.read_text()) if path.exists() else {}
        self.value: Any = found.get("value")
        self.error: str | None = found.get("error")
        self.kind: str | None = found.get("kind")


def in_processes(count: int, work: Callable[[], Any], place: Path) -> list[Ended]:
    """Run ``work`` in so many processes, and return how each ended.

    Args:
        count: of processes.
        work: returns what JSON can hold.
        place: a folder for what they return.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = {}
    for number in range(count):
        path = place / f"process-{number}.json"
        path.unlink(missing_ok=True)
        child = os.fork()
        if child == 0:
            _run(number, count, port, work, path)
        children[child] = path
    ended: dict[int, Ended] = {}
    deadline = time.monotonic() + LONGEST
    while len(ended) < count:
        for child in children.keys() - ended.keys():
            known, status = os.waitpid(child, os.WNOHANG)
            if known:
                ended[child] = Ended(status, children[child])
        if time.monotonic() > deadline:
            for child in children.keys() - ended.keys():
                os.kill(child, signal.SIGKILL)
            deadline += LONGEST
        time.sleep(0.01)
    return [ended[child] for child in children]


def values(count: int, work: Callable[[], Any], place: Path) -> list[Any]:
    """Return what the function returns in each process; none may fail."""
    ended = in_processes(count, work, place)
    assert [(one.error, one.signal) for one in ended] == [(None, None)] * count
    return [one.value for one in ended]


def _run(number: int, count: int, port: int, work: Callable[[], Any], path: Path) -> None:
    try:
        torch.set_num_threads(1)  # the others stayed behind
        where = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
        os.environ.update({name: str(value) for name, value in where.items()})
        os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
        found = {"value": work()}
    except BaseException as error:
        traceback.print_exc()
        found = {"error": str(error), "kind": type(error).__name__}
    path.write_text(json.dumps(found))
    os._exit(0)
