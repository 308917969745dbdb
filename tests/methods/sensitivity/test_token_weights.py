"""Tokens that count by their gradients, against sums over single tokens in float64."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tests.conftest import make_model
from tests.methods.sensitivity.helpers import original_of
from tests.methods.sensitivity.test_measure import PATH, inputs_of, mean_loss
from torch import Tensor
from transformers import PreTrainedModel

import eckart
from eckart.errors import RecipeError
from eckart.layers import weight_matrix
from eckart.maths.lowrank import solve
from eckart.maths.whitening import whiten
from eckart.methods.allocation import Needs
from eckart.methods.metric import Fisher
from eckart.methods.objectives import InputAware
from eckart.methods.recipes.loader import load_recipe
from eckart.methods.sensitivity.measure import measure
from eckart.methods.sensitivity.request import Request

WEIGHTED = Fisher(labels="next", token_weights="gradient")
OVERRIDES = ["objective.metric.token_weights=gradient"]


def output_gradients(model: PreTrainedModel, tokens: Tensor) -> Tensor:
    seen: list[Tensor] = []

    def record(module: object, args: object, output: Tensor) -> None:
        output.retain_grad()
        seen.append(output)

    handle = model.get_submodule(PATH).register_forward_hook(record)
    (mean_loss(model, tokens) * tokens[:, 1:].numel()).backward()
    handle.remove()
    assert seen[0].grad is not None
    return seen[0].grad.flatten(0, 1).double()


@pytest.mark.parametrize("metric", [WEIGHTED, WEIGHTED.model_copy(update={"token_weights": "equal"})])
def test_solves_the_equation_of_weighted_tokens(metric: Fisher, llama: PreTrainedModel, tokens: Tensor) -> None:
    request = Request(InputAware(metric=metric), Needs.SPECTRUM, metric, keep_bases=True)
    measurements = measure(original_of(llama, tokens), request, lambda done, total: None)
    inputs, gradients = inputs_of(llama, PATH, tokens), output_gradients(llama, tokens)
    weights = gradients.norm(dim=1) if metric.weighs_tokens else torch.ones(len(inputs), dtype=torch.float64)
    second = sum(w * torch.outer(x, x) for w, x in zip(weights, inputs, strict=True)) * (len(inputs) / weights.sum())
    weight = weight_matrix(llama.get_submodule(PATH)).detach().double()
    root = metric.root(gradients.T @ gradients / tokens[:, 1:].numel())
    expected = solve(whiten(second), None, weight, root)
    basis, dual, values = measurements.components(PATH)
    torch.testing.assert_close(values, expected.singular_values, rtol=1e-3, atol=1e-6)
    for rank in (2, 8):
        ours = basis[:, :rank].double() @ dual[:, :rank].double().T @ weight
        theirs = expected.basis[:, :rank] @ expected.dual[:, :rank].T @ weight
        torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("structure", ["two-factor", "pivoted"])
def test_layers_are_made_of_those_components(kind: str, structure: str, tokens: Tensor) -> None:
    model = make_model(kind)
    recipe = load_recipe("io-svd", [*OVERRIDES, "objective.metric.labels=next", f"structure={structure}"])
    metric = recipe.objective.output_metric
    assert metric is not None
    request = Request(recipe.objective, recipe.allocation.needs, metric, keep_bases=True)
    original = copy.deepcopy(model)
    measurements = measure(original_of(model, tokens), request, lambda done, total: None)
    report = eckart.compress(model, recipe, 0.7, tokens)
    ranks = {path: rank for path, rank in report.ranks.items() if not path.endswith(("up_proj", "gate_proj"))}
    assert ranks
    assert report.spectra.keys() == report.ranks.keys()
    for path, rank in ranks.items():
        basis, dual, _ = measurements.components(path)
        weight = weight_matrix(original.get_submodule(path)).detach().double()
        if path.endswith(("down_proj", "mlp.c_proj")) and structure == "pivoted":
            continue  # its inputs may be in another order
        expected = basis[:, :rank].double() @ dual[:, :rank].double().T @ weight
        product = model.get_submodule(path).dense_weight()
        if structure == "pivoted" and path.endswith("c_fc"):
            product, expected = product.sort(dim=0).values, expected.sort(dim=0).values
        torch.testing.assert_close(product, expected, rtol=1e-3, atol=1e-4)


def test_models_on_disk_and_sweeps_give_the_same(
    model_folder: object, text_file: object, tmp_path: object, tokens: Tensor
) -> None:
    from eckart.checkpoint import load_model, load_tokenizer
    from eckart.data.calibration import calibrate
    from eckart.sweep.build import build
    from eckart.sweep.statistics import collect

    recipe = load_recipe("io-svd", [*OVERRIDES, "structure=pivoted"])
    options: dict[str, Any] = {"samples": 6, "length": 24}
    model = load_model(str(model_folder))
    dense = copy.deepcopy(model)
    eckart.compress(model, recipe, 0.7, str(text_file), tokenizer=load_tokenizer(str(model_folder)), **options)
    eckart.compress_checkpoint(str(model_folder), f"{tmp_path}/out", recipe, 0.7, str(text_file), **options)
    loaded = load_model(f"{tmp_path}/out")
    drawn = calibrate(str(text_file), seed=0, tokenizer=load_tokenizer(str(model_folder)), **options)
    made = build(dense, recipe, 0.7, collect(dense, {recipe: [0.7]}, drawn, torch.device("cpu"))).model
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
        torch.testing.assert_close(made.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("recipe", "overrides", "found"),
    [
        ("io-svd", ["structure=hybrid"], "structure 'hybrid'"),
        ("io-svd", ["allocation=uniform"], "allocation 'uniform'"),
        ("io-svd", ["sharing=by-loss"], "sharing 'by-loss'"),
        ("aa-svd-layer", ["allocation=curvature", "objective.metric=fisher"], "objective 'anchored'"),
        ("io-svd", ["objective.affine=true"], "an affine objective"),
        ("asvd", ["allocation=curvature", "objective.metric=fisher"], "objective 'activation-scaled'"),
    ],
)
def test_what_does_not_go_with_weights(recipe: str, overrides: list[str], found: str) -> None:
    with pytest.raises(RecipeError, match=f"found {found}"):
        load_recipe(recipe, [*overrides, *OVERRIDES])


def test_gradients_are_clipped_by_sequence_and_their_ends_left_out(llama: PreTrainedModel, tokens: Tensor) -> None:
    """KFAC-SVD's second moment of gradients (arXiv 2610.32878): token by token, as its code does."""
    metric = Fisher(labels="next", clip=(0.4, 1.5), trim=0.125)
    request = Request(InputAware(metric=metric), Needs.SPECTRUM, metric)
    gradients = output_gradients(llama, tokens).unflatten(0, tokens.shape)
    count, length = tokens.shape
    left_out, second = int(0.125 * length), torch.zeros(gradients.shape[-1], gradients.shape[-1], dtype=torch.float64)
    for sequence in gradients:
        kept = sequence[left_out : length - left_out]
        lengths = [float(row.norm()) for row in kept]
        # Short ones are made longer, too; those without a length are not in the mean.
        mean = sum(lengths) / sum(known >= 1e-10 for known in lengths)
        for row, known in zip(kept, lengths, strict=True):
            scaled = row if known < 1e-10 else row * (min(max(known, 0.4 * mean), 1.5 * mean) / known)
            second += torch.outer(scaled, scaled)
    # A token, over all predictions; what is left out stands for the same as what is not.
    expected = second * (length / (length - 2 * left_out)) / (count * (length - 1))
    found = measure(original_of(llama, tokens), request, lambda done, total: None).metrics[PATH]
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-9)
    plain = Fisher(labels="next")
    bare = measure(
        original_of(llama, tokens), Request(InputAware(metric=plain), Needs.SPECTRUM, plain), lambda *_: None
    )
    assert not torch.allclose(found, bare.metrics[PATH], rtol=1e-2)
