from __future__ import annotations

import time

import torch

from eckart.maths.stopwatch import random_matrix, seconds_of


def test_the_first_run_does_not_count() -> None:
    """It is the one that loads libraries and takes memory."""
    waits = [0.2, 0.02]

    def run() -> None:
        time.sleep(waits.pop(0))

    assert 0.02 <= seconds_of(run, torch.device("cpu")) < 0.2
    assert waits == []


def test_random_matrices_leave_the_seed_of_the_user_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    matrix = random_matrix(200, 300)
    assert torch.equal(torch.rand(4), expected)
    assert (matrix.shape, matrix.dtype) == ((200, 300), torch.float32)
    assert abs(float(matrix.mean())) < 0.02
    assert abs(float(matrix.std()) - 1) < 0.02
    assert torch.equal(random_matrix(200, 300), matrix)
