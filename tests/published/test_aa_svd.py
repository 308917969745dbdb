"""AA-SVD with its refinement: order, split of the singular values, optimiser and schedule as published."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.published import literal
from tests.published.refinement import aa_svd
from torch import Tensor
from transformers import PreTrainedModel

import eckart
from eckart.methods.recipes.loader import load_recipe
from eckart.methods.refinement import BlockRefinement
from eckart.methods.structure import TwoFactor

KEEP = 0.8
# 27 steps, a tenth of which is 2.7: cut, not rounded.
NUMBERS = ("refinement.epochs=9", "refinement.batch=4", "refinement.learning_rate=1e-3")


def difference(model: PreTrainedModel, expected: PreTrainedModel) -> float:
    """Return the largest relative difference of a weight of low rank or of a norm."""
    worst = 0.0
    for path in literal.paths(model):
        one, two = model.get_submodule(path).dense_weight(), expected.get_submodule(path).weight
        worst = max(worst, float((one - two).norm() / two.norm()))
    norms = [
        (parameter.detach(), expected.get_parameter(name))
        for name, parameter in model.named_parameters()
        if "layernorm" in name
    ]
    return max(worst, *(float((one - two).norm() / two.norm()) for one, two in norms))


@pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning")
@pytest.mark.parametrize("recipe", ["aa-svd", "aa-svd-anchored"])
def test_it_is_the_published_one(recipe: str, dense: PreTrainedModel, tokens: Tensor) -> None:
    anchored = recipe == "aa-svd-anchored"
    expected = aa_svd(literal.double(dense), tokens, KEEP, anchored=anchored, epochs=9, batch=4, highest=1e-3)
    ours = copy.deepcopy(dense)
    report = eckart.compress(ours, recipe, KEEP, tokens, overrides=NUMBERS)
    assert all(record.before is None and record.kept_epoch == 9 for record in report.refinements)
    found = difference(ours, expected)
    assert found < 2e-3
    # None of what it consists of could be left out.
    if not anchored:
        for other in ("structure.split=norms", "refinement.shuffle=true", "refinement.held_out=0.125"):
            changed = copy.deepcopy(dense)
            eckart.compress(changed, recipe, KEEP, tokens, overrides=[*NUMBERS, other])
            assert difference(changed, expected) > 5 * found, other


@pytest.mark.parametrize("recipe", ["aa-svd", "aa-svd-anchored", "aa-svd-remap"])
def test_the_published_numbers(recipe: str) -> None:
    plan = load_recipe(recipe).refinement
    assert isinstance(plan, BlockRefinement)
    assert (plan.epochs, plan.batch, plan.learning_rate, plan.weight_decay) == (25, 32, 1e-4, 0.01)
    assert (plan.warmup, plan.final_learning_rate, plan.gradient_norm, plan.betas) == (0.1, 0.1, 1.0, (0.9, 0.999))
    assert (plan.held_out, plan.shuffle, plan.relative, plan.max_steps) == (0.0, False, False, None)
    assert plan.steps(256) == 200
    assert plan.rate(0, 256) == 0
    assert plan.rate(20, 256) == 1e-4


def test_each_factor_gets_the_root_of_each_singular_value(dense: PreTrainedModel, tokens: Tensor) -> None:
    x = literal.inputs(literal.double(dense), tokens)
    before = literal.weights(literal.double(dense))
    eckart.compress(dense, load_recipe("svd-llm", ["structure.split=singular-values"]), KEEP, tokens)
    for path in literal.paths(dense):
        layer = dense.get_submodule(path)
        second, first = literal.input_aware(before[path], x[path], layer.rank)
        signs = torch.sign((layer.second.weight.double() * second).sum(dim=0))
        torch.testing.assert_close(layer.second.weight.double(), second * signs, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(layer.first.weight.double(), first * signs[:, None], rtol=1e-3, atol=1e-3)
    assert TwoFactor().split == "norms"  # as before there was a choice: what is stored means the same
