"""Which process solves which equation."""

from __future__ import annotations

import pytest

from eckart import processes
from eckart.blocks.block import LinearRef
from eckart.blocks.owners import own_of


def ref(name: str, rows: int, columns: int) -> LinearRef:
    return LinearRef(name, name, rows, columns)


REFS = [ref("q", 8, 8), ref("k", 4, 8), ref("down", 8, 32), ref("up", 32, 8), ref("gate", 32, 8)]


def test_one_process_solves_all() -> None:
    assert own_of(REFS) == [0] * 5
    assert own_of([]) == []


def test_the_longest_goes_to_whom_has_least_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "size", lambda: 2)
    # The root of the inputs of `down` takes 32^3, which is more than all others together.
    assert own_of(REFS) == [1, 1, 0, 1, 1]
    assert own_of(REFS[3:]) == [0, 1]
