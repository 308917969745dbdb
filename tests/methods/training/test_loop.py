"""The loop, with a trainee whose losses are written down beforehand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from eckart.methods.training import EpochRecord, TrainingRun
from eckart.methods.training.config import TrainingConfig
from eckart.methods.training.loop import train


class Config(TrainingConfig):
    what = "A test"
    place = "nowhere"
    name: str = "test"


class Scripted:
    """Loses ``before`` on what is held out, and then what the script says after each epoch.

    Every sequence counts as two, so that sums and what they are divided by differ.
    """

    def __init__(self, script: Sequence[float], before: float = 10.0, steps_in_epoch: int = 1) -> None:
        self.losses, self.steps_in_epoch = [before, *script], steps_in_epoch
        self.steps: list[list[int]] = []
        self.rates: list[float] = []
        self.kept: list[int] = []
        self.finite = True

    @property
    def epoch(self) -> int:
        return len(self.steps) // self.steps_in_epoch

    def step(self, batch: Tensor, learning_rate: float) -> float:
        self.steps.append(batch.tolist())
        self.rates.append(learning_rate)
        return 2.0 * float(sum(batch.tolist()))

    def unit(self, sequences: Tensor) -> float:
        return 2.0 * len(sequences)

    def loss(self, sequences: Tensor) -> float:
        self.held_out = sequences.tolist()
        return self.losses[self.epoch] * 2 * len(sequences)

    def is_finite(self) -> bool:
        return self.finite

    def snapshot(self) -> None:
        self.kept.append(self.epoch)


def run_of(seed: int = 0) -> tuple[TrainingRun, list[tuple[int, EpochRecord]]]:
    heard: list[tuple[int, EpochRecord]] = []
    return TrainingRun(torch.float32, seed, False, lambda number, record: heard.append((number, record))), heard


@given(st.lists(st.floats(1, 20), min_size=1, max_size=8), st.integers(1, 4))
def test_the_best_state_is_kept_and_patience_is_counted_from_it(script: list[float], patience: int) -> None:
    trainee, (run, heard) = Scripted(script), run_of()
    config = Config(epochs=len(script), batch=8, held_out=0.2, patience=patience)
    record = train(config, trainee, 10, run)
    losses = [10.0, *script]
    # The first epoch behind as many as patience lasts that brought nothing better.
    ends = (e for e in range(patience, len(losses)) if min(losses[: e + 1]) == min(losses[: e - patience + 1]))
    last = next(ends, len(script))
    seen = losses[: last + 1]
    assert record.before == pytest.approx(10)
    assert [epoch.held_out for epoch in record.epochs] == pytest.approx(seen[1:])
    assert record.kept_epoch == seen.index(min(seen)) == trainee.kept[-1]
    assert record.after == pytest.approx(min(seen))
    assert [number for number, _ in heard] == list(range(1, len(seen)))
    assert [epoch for _, epoch in heard] == record.epochs


def test_the_last_sequences_are_held_out_and_all_others_are_seen_in_each_epoch() -> None:
    trainee, (run, _) = Scripted([9, 8, 7], steps_in_epoch=3), run_of()
    record = train(Config(epochs=3, batch=3, held_out=0.2), trainee, 10, run)
    assert trainee.held_out == [8, 9]
    epochs = [[index for batch in trainee.steps[start : start + 3] for index in batch] for start in (0, 3, 6)]
    assert all(sorted(order) == list(range(8)) for order in epochs)
    assert len({tuple(order) for order in epochs}) == 3
    assert [len(batch) for batch in trainee.steps[:3]] == [3, 3, 2]
    # The mean over sequences of the losses that steps returned: 2 * (0 + ... + 7) / (2 * 8).
    assert [epoch.training for epoch in record.epochs] == [3.5] * 3


@pytest.mark.parametrize("shuffle", [True, False])
def test_the_order_is_that_of_the_seed(shuffle: bool) -> None:
    orders: list[list[list[int]]] = []
    for seed in (1, 1, 2):
        torch.manual_seed(len(orders))
        trainee = Scripted([1.0])
        train(Config(epochs=1, batch=8, held_out=0, shuffle=shuffle), trainee, 8, run_of(seed)[0])
        orders.append(trainee.steps)
    assert orders[0] == orders[1]
    assert (orders[0] == orders[2]) == (not shuffle)
    assert shuffle or orders[0] == [list(range(8))]


def test_rates_are_those_of_the_schedule() -> None:
    config = Config(epochs=2, batch=2, learning_rate=3.0, held_out=0, warmup=0.25)
    trainee = Scripted([1.0, 1.0], steps_in_epoch=4)
    train(config, trainee, 8, run_of()[0])
    assert trainee.rates == [config.rate(step, 8) for step in range(8)]
    assert max(trainee.rates) == 3.0


def test_with_nothing_held_out_the_last_state_is_kept() -> None:
    trainee, (run, _) = Scripted([1.0] * 3), run_of()
    record = train(Config(epochs=3, batch=8, held_out=0, patience=1), trainee, 8, run)
    assert (record.before, record.after, record.kept_epoch) == (None, None, 3)
    assert trainee.kept == [0, 1, 2, 3]


def test_nothing_is_trained_where_nothing_was_lost() -> None:
    trainee, (run, heard) = Scripted([0.0], before=0.0), run_of()
    record = train(Config(epochs=1, batch=8, held_out=0.2), trainee, 10, run)
    assert (record.before, record.after, record.kept_epoch, record.epochs) == (0, 0, 0, [])
    assert (trainee.steps, heard) == ([], [])


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_what_diverges_ends_with_the_best_state(wrong: float) -> None:
    trainee, (run, heard) = Scripted([5.0, wrong, 1.0]), run_of()
    record = train(Config(epochs=3, batch=8, held_out=0.2), trainee, 10, run)
    assert (record.kept_epoch, record.after, len(record.epochs), len(heard)) == (1, 5, 1, 1)
    assert trainee.kept == [0, 1]


def test_weights_that_are_no_numbers_are_not_kept() -> None:
    trainee, (run, _) = Scripted([1.0, 1.0]), run_of()
    trainee.finite = False
    record = train(Config(epochs=2, batch=8, held_out=0), trainee, 8, run)
    assert (record.kept_epoch, record.epochs, trainee.kept) == (0, [], [0])
