"""What trials are estimated to take."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from eckart.methods.allocation import Curvature, Lems, Masks, Search, SecondRound, Swift
from eckart.methods.allocation.with_trials import WithTrials
from eckart.methods.objectives import InputAware
from eckart.methods.sensitivity.cost import StepSeconds
from eckart.methods.sensitivity.request import Request

STEPS = StepSeconds(
    block=2.0,
    moments=0.0,
    head=3.0,
    batch_tokens=10,
    blocks=4,
    shapes=((8, 8), (8, 16)),
    samples=6,
    length=20,
    device=torch.device("cpu"),
)
REQUEST = Request(InputAware())
# A trial goes through half of the blocks, in the mean, and the head.
TRIAL, RUN = 2.0 * 4 / 2 + 3.0, 2.0 * 4 + 3.0


def test_seconds_follow_from_what_is_looked_at() -> None:
    search = Search(shares=(0.5,), trial_samples=3, trial_length=10)
    assert search.trial_seconds(STEPS) == pytest.approx(8 * 3 * TRIAL)  # of eight linears; three batches
    assert search.run_seconds(STEPS) == pytest.approx(3 * RUN)
    assert Search(trial_samples=100).run_seconds(STEPS) == pytest.approx(12 * RUN)  # no more than there are


@pytest.mark.parametrize(
    ("chosen", "trials", "runs"),
    [
        (Search(shares=(0.4, 0.6)), 2, 0),
        (SecondRound(shares=(0.4, 0.6, 1.0), rounds=2), 6, 0),
        (Lems(), 1, 0),
        (Lems(biases=((0.0, 0.0), (1.0, 1.0))), 1, 6),
        (Curvature(), 0, 0),
        (Curvature(scale="measured"), 1, 0),
        (Swift(alphas=(0.0, 1.0)), 0, 2),
        (Swift(alpha=0.5), 0, 0),
    ],
)
def test_seconds_of_each_allocation(chosen: WithTrials, trials: int, runs: int) -> None:
    expected = trials * chosen.trial_seconds(STEPS) + runs * chosen.run_seconds(STEPS)
    assert chosen.own_seconds(STEPS) == pytest.approx(expected)


@pytest.mark.parametrize("chosen", [Search(), SecondRound(), Lems(), Masks(), Swift()])
def test_who_truncates_keeps_the_bases(chosen: WithTrials) -> None:
    assert chosen.truncates
    assert chosen.ask(REQUEST).keep_bases


@pytest.mark.parametrize("chosen", [Curvature(), Swift(alpha=0.5)])
def test_who_does_not_keeps_them_only_for_others(chosen: WithTrials) -> None:
    assert not chosen.truncates
    assert not chosen.ask(REQUEST).keep_bases
    assert chosen.ask(replace(REQUEST, keep_bases=True)).keep_bases
