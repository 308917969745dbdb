from __future__ import annotations

import time

import pytest
from pydantic import ValidationError

from eckart.compression.costs import Costs, Memory, Timings


def test_seconds_of_a_phase_add_up() -> None:
    timings = Timings(statistics=5.0)
    for _ in range(2):
        with timings.measure("factorisation"):
            time.sleep(0.02)
    assert 0.04 <= timings.factorisation < 2
    assert (timings.statistics, timings.refinement, timings.total) == (5.0, 0, 0)


def test_a_phase_that_fails_has_taken_its_time_too() -> None:
    timings = Timings()
    with pytest.raises(KeyError), timings.measure("files"):
        raise KeyError
    assert timings.files > 0


def test_a_phase_within_a_phase_counts_for_both() -> None:
    timings = Timings()
    with timings.measure("total"), timings.measure("records"):
        time.sleep(0.02)
    assert timings.total >= timings.records >= 0.02


def test_costs_are_read_as_they_were_written() -> None:
    memory = Memory(host=3, expected_host=4, device=5, expected_device=6)
    costs = Costs(timings=Timings(total=1.5), memory=memory, resumed_behind=2)
    assert Costs.model_validate_json(costs.model_dump_json()) == costs
    for wrong in (
        {"version": 2},
        {"resumed_behind": -1},
        {"timings": {"total": float("nan")}},
        {"memory": {"host": 1}},
    ):
        with pytest.raises(ValidationError):
            Costs.model_validate(wrong)
