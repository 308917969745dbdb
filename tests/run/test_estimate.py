from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedModel

import eckart
from eckart.blocks.blockwise_model import BlockwiseModel
from eckart.blocks.onload import ResidentWeights
from eckart.blocks.tensor_cache import ScratchSpace
from eckart.compression.estimate import Estimate
from eckart.compression.plan import Plan, make_plan
from eckart.data.calibration import Calibration
from eckart.device import host_memory
from eckart.run.estimate import estimate

CPU = torch.device("cpu")


def estimated(
    model: PreTrainedModel, recipe: eckart.Recipe, calibration: Calibration | None, limit: int | None = None
) -> Estimate:
    plan = make_plan(model, recipe, 0.6)
    where = BlockwiseModel(model, plan.blocks, ResidentWeights(), CPU, ScratchSpace(), calibration)
    return estimate(where, plan, limit=limit)


@pytest.mark.parametrize("recipe", eckart.RECIPES)
def test_every_recipe_has_one_and_leaves_the_model_alone(
    recipe: str, llama: PreTrainedModel, tokens: torch.Tensor
) -> None:
    before = {name: t.clone() for name, t in llama.state_dict().items()}
    chosen = eckart.RECIPES[recipe]
    calibration = Calibration(tokens, "x", 0) if chosen.needs_data else None
    cost = estimated(llama, chosen, calibration)
    assert cost.seconds == pytest.approx(3 * cost.block_seconds)
    assert cost.block_seconds > 0
    assert cost.host_bytes > 0.9 * host_memory()
    assert cost.device_bytes is None
    assert all(torch.equal(t, before[name]) for name, t in llama.state_dict().items())
    assert not any(parameter.requires_grad and parameter.grad is not None for parameter in llama.parameters())


def test_a_refinement_takes_longer(
    llama: PreTrainedModel, tokens: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("estimate", "timing"):  # real timings may say anything on a machine that does something else, too
        monkeypatch.setattr(f"eckart.run.{module}.seconds_of", lambda run, device: 1.0)

    def seconds(*overrides: str) -> float:
        recipe = eckart.load_recipe("aa-svd", overrides)
        return estimated(llama, recipe, Calibration(tokens, "x", 0)).seconds

    assert seconds("refinement=none") < seconds("refinement=none", "preparation=block", "preparation.epochs=200")
    assert seconds("refinement=none") < seconds("refinement.epochs=25") < seconds("refinement.epochs=250")


def test_what_does_not_fit_goes_to_files_and_activations_are_computed_twice(
    llama: PreTrainedModel, tokens: torch.Tensor
) -> None:
    recipe = eckart.RECIPES["aa-svd"]

    def choices(limit: int | None) -> tuple[bool, bool]:
        cost = estimated(llama, recipe, Calibration(tokens, "x", 0), limit)
        return cost.in_memory, cost.recompute

    assert choices(None) == (True, False)
    assert choices(10**12) == (True, False)
    assert choices(1) == (False, True)


def test_api_hands_it_out_before_anything_is_done(llama: PreTrainedModel, tokens: torch.Tensor) -> None:
    seen: list[Estimate] = []

    class Listener(eckart.Callback):
        def on_start(self, plan: Plan, cost: Estimate, finished: int) -> None:
            assert not any(isinstance(m, eckart.LowRankLinear) for m in llama.modules())
            assert finished == 0
            seen.append(cost)

    eckart.compress(llama, "svd-llm", 0.6, tokens, callback=Listener())
    assert len(seen) == 1
