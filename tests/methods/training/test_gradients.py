"""Gradients of a step that several processes share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tests.several import forks, values, warns
from torch import nn

from eckart import processes
from eckart.methods.training.gradients import add_gradients

pytestmark = [forks, warns]


def test_gradients_add_up_and_what_nobody_reaches_has_none(tmp_path: Path) -> None:
    def work() -> Any:
        with processes.together():
            parameters = [nn.Parameter(torch.zeros(2)) for _ in range(3)]
            parameters[0].grad = torch.full((2,), 1.0 + processes.rank())
            if processes.rank() == 1:
                parameters[1].grad = torch.ones(2)
            loss = add_gradients(parameters, 0.5)
            return [loss, *(None if p.grad is None else p.grad.tolist() for p in parameters)]

    assert values(2, work, tmp_path) == [[1.0, [3, 3], [1, 1], None]] * 2


def test_one_process_has_them_already() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    assert add_gradients([parameter], 0.25) == 0.25
    assert parameter.grad is None
