from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedModel

import eckart
from eckart.calibration import Calibration
from eckart.device import host_memory
from eckart.estimate import Estimate, estimate
from eckart.plan import make_plan

CPU = torch.device("cpu")


@pytest.mark.parametrize("recipe", eckart.RECIPES)
def test_every_recipe_has_one_and_leaves_the_model_alone(
    recipe: str, llama: PreTrainedModel, tokens: torch.Tensor
) -> None:
    before = {name: t.clone() for name, t in llama.state_dict().items()}
    chosen = eckart.RECIPES[recipe]
    calibration = Calibration(tokens, "x", 0) if chosen.objective.needs_data else None
    cost = estimate(llama, chosen, make_plan(llama, chosen, 0.6), calibration, CPU)
    assert cost.seconds > 0
    assert cost.host_bytes > 0.9 * host_memory()
    assert all(torch.equal(t, before[name]) for name, t in llama.state_dict().items())


def test_streams_and_inputs_are_counted(llama: PreTrainedModel) -> None:
    recipe = eckart.RECIPES["aa-svd-layer"]
    plan = make_plan(llama, recipe, 0.6)

    def extra(samples: int) -> int:
        tokens = torch.zeros(samples, 32, dtype=torch.int64)
        base = host_memory()
        return estimate(llama, recipe, plan, Calibration(tokens, "x", 0), CPU).host_bytes - base

    # Three streams of width 32, and the inputs of groups of widths 32, 32, 32, 48, in float32.
    expected = 4 * 32 * (3 * 32 + 32 + 32 + 32 + 48) * 9_000
    assert extra(10_000) - extra(1_000) == pytest.approx(expected, rel=0.1)


def test_api_hands_it_out_before_anything_is_done(llama: PreTrainedModel, tokens: torch.Tensor) -> None:
    seen: list[Estimate] = []

    def on_start(plan: object, cost: Estimate) -> None:
        assert not any(isinstance(m, eckart.LowRankLinear) for m in llama.modules())
        seen.append(cost)

    eckart.compress(llama, "svd-llm", 0.6, tokens, on_start=on_start)
    assert len(seen) == 1
