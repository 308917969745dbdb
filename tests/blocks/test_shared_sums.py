"""Moments of the tokens of several processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tests.several import forks, values, warns

from eckart import processes
from eckart.blocks.shared_sums import add_moments
from eckart.maths.moments import Moments

pytestmark = [forks, warns]
HOST = torch.device("cpu")
ROWS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).double()


def moments(rows: torch.Tensor) -> Moments:
    found = Moments.zeros(4, paired=True, device=HOST)
    if len(rows):
        found.add(rows.half(), rows.half() + 1)
        found.add_residual("front", rows[:, :3], rows)
    return found


def numbers(found: Moments) -> Any:
    residual = found.residuals["front"]
    return [known.tolist() for known in (*found.sums, residual.cross, residual.sum)] + [found.tokens, found.floor]


def test_moments_are_of_all_tokens_whoever_has_them(tmp_path: Path) -> None:
    def work() -> Any:
        with processes.together():
            here = moments(ROWS[processes.rank() * 6 :])  # all in one process, and none in the other
            add_moments([here])
            return numbers(here)

    assert values(2, work, tmp_path) == [numbers(moments(ROWS))] * 2


def test_one_process_has_them_already() -> None:
    here = moments(ROWS)
    before = numbers(here)
    add_moments([here])
    assert numbers(here) == before
