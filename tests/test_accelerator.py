"""Accelerators give what the CPU gives. Skipped where there is none; nothing else tells that the devices agree."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.conftest import make_model

import eckart
from eckart.methods.recipes.published import RECIPES

QUICK = {
    "asvd": ["allocation.trial_samples=1", "allocation.trial_length=8"],
    "dobi-svd": ["allocation.epochs=1", "allocation.training_samples=2", "allocation.training_length=8"],
}
TRAINED = ["refinement.epochs=1", "refinement.batch=2"]
CASES = [
    *((name, QUICK.get(name, TRAINED if recipe.refinement.needs_data else [])) for name, recipe in RECIPES.items()),
    ("svd-llm", ["structure=pivoted", "objective.affine=true"]),
    ("svd-llm", ["sharing=shared"]),
    ("svd-llm", ["precision=4-bit"]),
    ("svd-llm", ["distillation=logits", "distillation.epochs=1"]),
    ("aa-svd-layer", ["objective.residual_anchoring=true"]),
]


@pytest.mark.skipif(not torch.accelerator.is_available(), reason="no accelerator")
@pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning")
@pytest.mark.parametrize(("recipe", "overrides"), CASES, ids=lambda case: case if isinstance(case, str) else "")
def test_an_accelerator_gives_what_the_cpu_gives(recipe, overrides, tokens):
    accelerator = torch.accelerator.current_accelerator()
    assert accelerator is not None
    losses = []
    for device in (torch.device("cpu"), accelerator):
        model = copy.deepcopy(make_model("llama"))
        eckart.compress(model, recipe, 0.6, tokens, device=device.type, overrides=overrides)
        assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
        with torch.no_grad():
            logits = model.to(device)(input_ids=tokens.to(device), use_cache=False).logits[:, :-1].flatten(0, 1)
        losses.append(torch.nn.functional.cross_entropy(logits.double(), tokens[:, 1:].flatten().to(device)).item())
    # Where codes are rounded, a sum in another order may fall on the other side.
    assert losses[1] == pytest.approx(losses[0], abs=0.02)
