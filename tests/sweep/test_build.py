"""What rows share changes nothing: each model is the one that ``eckart.compress`` makes."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from tests.conftest import make_model

import eckart
from eckart.data.calibration import Calibration
from eckart.errors import EckartError, EckartWarning, NonFiniteError
from eckart.sweep.build import build
from eckart.sweep.case import recipe_of
from eckart.sweep.evaluation import stored_bytes
from eckart.sweep.statistics import collect

CPU = torch.device("cpu")
# Made by a walk of their own, or of what was kept in float64.
EXACT = [
    "gptq",
    "io-svd+structure=hybrid+structure.base=8-bit",
    "aa-svd-layer+objective.residual_anchoring=1+allocation=curvature",
    "zs-svd-staged+allocation.stages=2",
]
SKETCHED = [
    f"{name}+solver=randomized+solver.limit=1"
    for name in (
        "svd",
        "io-svd+allocation=uniform+allocation.multiple=1",
        "svd+allocation=energy+allocation.multiple=1",
    )
]
# Made of components, which are kept in float32.
ROUNDED = [
    "svd-llm",
    "svd-llm+objective.affine=true+structure=pivoted",
    "zs-svd+structure=pivoted+precision=8-bit",
    "adasvd+structure=remapped",
    "svd-llm+structure=kept-columns",
    "svd-llm+structure=dictionary",
    "rocket+allocation.shares=[0.4,0.7]+allocation.sparsities=[1,2,3]",
    "asvd+allocation.trial_samples=2",
]
FUSED = ["svd+sharing=shared", "io-svd+sharing=shared+structure=pivoted"]
CASES = [("llama", EXACT, [0.6]), ("llama", SKETCHED, [0.4]), ("llama", ROUNDED, [0.8, 0.6]), ("gpt2", FUSED, [0.7])]


def mean_loss(model, tokens) -> float:
    with torch.no_grad():
        logits = model(input_ids=tokens, use_cache=False).logits[:, :-1].flatten(0, 1)
    return float(torch.nn.functional.cross_entropy(logits.double(), tokens[:, 1:].flatten()))


@pytest.mark.parametrize(("kind", "labels", "sizes"), CASES)
@pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning")
def test_models_are_those_of_compress(kind, labels, sizes, tokens):
    model = make_model(kind)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    recipes = [recipe_of(label) for label in labels]
    statistics = collect(model, dict.fromkeys(recipes, sizes), Calibration(tokens, "token ids", 0), CPU)
    for recipe, keep in itertools.product(recipes, sizes):
        plain = copy.deepcopy(model)
        report = eckart.compress(plain, recipe, keep, tokens)
        made = build(model, recipe, keep, statistics)
        assert dict(made.ranks) == {layer.path: layer.rank for layer in report.layers}, recipe.name
        assert made.kept == report.keep, recipe.name
        assert stored_bytes(made.model) == stored_bytes(plain), recipe.name
        for name, tensor in plain.state_dict().items():
            found = made.model.state_dict()[name]
            exact = labels is EXACT or labels is SKETCHED
            assert torch.equal(found, tensor) if exact else torch.allclose(found, tensor, atol=1e-5), name
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_model_in_16_bits_and_statistics_in_files(tokens):
    model = make_model("llama").bfloat16()
    recipes = [recipe_of(label) for label in ("io-svd", "zs-svd+precision=8-bit")]
    sizes = [0.6]
    statistics = collect(model, dict.fromkeys(recipes, sizes), Calibration(tokens, "token ids", 0), CPU, limit=0)
    folder = statistics.original.scratch.folder
    assert folder is not None
    assert list(folder.iterdir())
    try:
        for recipe in recipes:
            plain = copy.deepcopy(model)
            eckart.compress(plain, recipe, 0.6, tokens)
            made = build(model, recipe, 0.6, statistics).model
            assert made.dtype == torch.bfloat16
            for candidate in (made, plain):
                for parameter in candidate.parameters():
                    parameter.data = parameter.data.float()
            assert mean_loss(made, tokens) == pytest.approx(mean_loss(plain, tokens), abs=1e-3)
    finally:
        statistics.close()
    assert not folder.exists()


def test_a_refined_model_is_that_of_compress(tokens):
    model = make_model("qwen2")
    recipe = recipe_of("aa-svd+allocation=zero-sum+refinement.epochs=1+refinement.batch=4")
    statistics = collect(model, {recipe: [0.6]}, Calibration(tokens, "token ids", 0), CPU)
    plain = copy.deepcopy(model)
    with pytest.warns(EckartWarning, match="optimiser steps"):
        eckart.compress(plain, recipe, 0.6, tokens)
    made = build(model, recipe, 0.6, statistics)
    assert mean_loss(made.model, tokens) == pytest.approx(mean_loss(plain, tokens), abs=1e-4)


@pytest.mark.parametrize("name", ["aa-svd", "prehab", "svd-llm-lora"])
def test_activations_that_do_not_fit_are_computed_twice(name, llama, tokens, monkeypatch):
    asked = []

    def walk(*args, recompute, **kwargs):
        asked.append(recompute)
        raise EckartError("enough")

    monkeypatch.setattr("eckart.sweep.build.compress_blocks", walk)
    recipe = recipe_of(name)
    statistics = collect(llama, {recipe: [0.6]}, Calibration(tokens, "token ids", 0), CPU)
    for limit in (1 << 40, 0):
        monkeypatch.setattr("eckart.sweep.build.host_limit", lambda limit=limit: limit)
        with pytest.raises(EckartError, match="enough"):
            build(llama, recipe, 0.6, statistics)
    assert asked == [False, True]


def test_a_measurement_that_fails_leaves_the_others(llama, tokens):
    """A head that gives no usable logits has no gradients, and its model's inputs are fine."""
    with torch.no_grad():
        llama.lm_head.weight[0] = torch.finfo(torch.float32).max
    good, bad = recipe_of("svd-llm"), recipe_of("zs-svd+objective.shrinkage=0.1")
    statistics = collect(llama, {bad: [0.6], good: [0.6]}, Calibration(tokens, "token ids", 0), CPU)
    assert any(build(llama, good, 0.6, statistics).ranks.values())
    with pytest.raises(NonFiniteError, match="gradient"):
        build(llama, bad, 0.6, statistics)
