from __future__ import annotations

import pytest
import torch
from tests.conftest import make_model
from tests.methods.sensitivity.helpers import original_of
from torch.nn import functional

from eckart.blocks.onload import ResidentWeights
from eckart.blocks.overridden_weights import OverriddenWeights
from eckart.compression.allocate import allocate
from eckart.compression.plan import make_plan
from eckart.layers import weight_matrix
from eckart.methods.allocation.iterative_truncation import projected
from eckart.methods.recipes.loader import load_recipe

CPU = torch.device("cpu")


def test_a_correction_changes_the_loss_as_the_way_back_does():
    generator = torch.Generator().manual_seed(0)
    gradient, difference = torch.randn(2, 5, 7, generator=generator, dtype=torch.float64)
    step = projected(difference, gradient)
    assert float((gradient * step).sum()) == pytest.approx(float((gradient * difference).sum()))
    # The shortest such step: along the gradient.
    cosine = functional.cosine_similarity(step.flatten(), gradient.flatten(), dim=0)
    assert abs(float(cosine)) == pytest.approx(1)
    assert not projected(difference, torch.zeros_like(gradient)).any()
    assert not projected(difference, None).any()


def test_other_weights_are_seen_while_lent_and_gone_afterwards():
    model = make_model("gpt2")  # whose weights are stored transposed
    path = "transformer.h.1.attn.c_attn"
    linear = model.get_submodule(path)
    before = weight_matrix(linear).detach().clone()
    other = torch.randn_like(before)
    weights = OverriddenWeights(ResidentWeights(), model, {path: other})
    with weights.onload(model.transformer.h[1], CPU):
        torch.testing.assert_close(weight_matrix(linear).detach(), other)
    assert torch.equal(weight_matrix(linear), before)
    with weights.onload(model, CPU, skip=tuple(model.transformer.h)):
        assert torch.equal(weight_matrix(linear), before)


def test_stages_lower_the_loss_of_the_truncated_model_and_leave_the_model_alone(llama, tokens):
    before = {name: tensor.clone() for name, tensor in llama.state_dict().items()}
    recipe = load_recipe("zs-svd-staged", ["allocation.stages=3"])
    seen = []
    plan = make_plan(llama, recipe, 0.6)
    measurements = allocate(original_of(llama, tokens), plan, lambda *step: seen.append(step)).measurements
    corrected = measurements.weights
    assert seen[-1] == (9, 9)
    assert len(measurements.linears) == 21
    assert corrected
    assert all(torch.equal(before[name], tensor) for name, tensor in llama.state_dict().items())
    for path, weight in corrected.items():
        assert weight.shape == weight_matrix(llama.get_submodule(path)).shape
        assert not torch.equal(weight, weight_matrix(llama.get_submodule(path)))


def test_what_stays_dense_keeps_its_original_weight(llama, tokens):
    recipe = load_recipe("zs-svd-staged", ["allocation.stages=2"])
    plan = make_plan(llama, recipe, 0.8)
    original = original_of(llama, tokens)
    allocated = allocate(original, plan)
    dense = [path for path, rank in allocated.plan.ranks.items() if rank is None]
    factored = [path for path, rank in allocated.plan.ranks.items() if rank is not None]
    assert dense
    assert factored
    for block in plan.blocks:
        with allocated.model.weights.onload(block.module, CPU):
            for ref in block.linears:
                lent = weight_matrix(block.module.get_submodule(ref.name)).detach().clone()
                stored = original.model.get_submodule(ref.path)
                assert lent.shape == weight_matrix(stored).shape
                if ref.path in factored:
                    continue
                assert torch.equal(lent, weight_matrix(make_model("llama").get_submodule(ref.path)))
