"""What several processes agree on before they share a run."""

from __future__ import annotations

from pathlib import Path

import torch
from tests.conftest import make_model
from tests.several import forks, in_processes, values, warns

from eckart import processes
from eckart.blocks.blockwise_model import BlockwiseModel
from eckart.blocks.discovery import find_blocks
from eckart.blocks.onload import ResidentWeights
from eckart.blocks.tensor_cache import ScratchSpace
from eckart.compression.estimate import Estimate
from eckart.data.calibration import Calibration
from eckart.run.alike import check_alike, in_parts, largest_part, worst_of

pytestmark = [forks, warns]
HERE = Estimate(10, None, 1.0, 2.0, 3.0, 4.0, in_memory=True, recompute=False)


def blockwise(samples: int) -> BlockwiseModel:
    model = make_model()
    tokens = torch.zeros(samples, 2048, dtype=torch.int64)  # each a batch by itself
    known = Calibration(tokens, "zeros", 0)
    return BlockwiseModel(model, find_blocks(model), ResidentWeights(), torch.device("cpu"), ScratchSpace(), known)


def test_one_process_agrees_with_itself_and_has_all() -> None:
    model = blockwise(5)
    check_alike({"a": 1})
    assert worst_of(HERE) is HERE
    assert largest_part(model) is model
    assert in_parts(model).known.own == [0, 1, 2, 3, 4]


def test_what_differs_is_named_where_it_is_and_told_once(tmp_path: Path) -> None:
    def work() -> None:
        with processes.together():
            check_alike({"recipe": {"keep": 0.5 + 0.1 * processes.rank()}, "same": 1})

    first, second = in_processes(2, work, tmp_path)
    assert (first.kind, second.kind) == ("ProcessError", "ToldElsewhereError")
    assert first.error is not None
    assert "recipe.keep is 0.5 in process 0 and 0.6 in process 1." in first.error
    assert "same" not in first.error.partition("recipe")[2].partition(".")[0]


def test_parts_and_costs(tmp_path: Path) -> None:
    model = blockwise(5)

    def work() -> list[object]:
        with processes.together():
            one = processes.rank() == 1
            cost = worst_of(Estimate(20 if one else 10, 7 if one else None, 1.0, 2.0, 3.0, 4.0, not one, one))
            parts = in_parts(model).known.own, len(largest_part(model).known)
            return [*parts, cost.host_bytes, cost.device_bytes, cost.in_memory, cost.recompute]

    assert values(2, work, tmp_path) == [[[0, 2, 4], 3, 20, 7, False, True], [[1, 3], 3, 20, 7, False, True]]
