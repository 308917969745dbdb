"""Recipes in closed form against the published rules, from the model to the weights that take its place."""

from __future__ import annotations

import pytest
import torch
from tests.published import literal
from torch import Tensor
from transformers import PreTrainedModel

import eckart

KEEP = 0.6


def compressed(
    model: PreTrainedModel, recipe: str | eckart.Recipe, tokens: Tensor, keep: float = KEEP
) -> dict[str, tuple[int | None, Tensor]]:
    """Return the rank and the weight that each linear ends with."""
    report = eckart.compress(model, recipe, keep, tokens)
    ranks = {layer.path: layer.rank for layer in report.layers}
    return {path: (ranks[path], model.get_submodule(path).dense_weight()) for path in literal.paths(model)}


def worst(found: dict[str, tuple[int | None, Tensor]], expected: dict[str, Tensor]) -> float:
    """Return the largest relative difference of a weight."""
    assert found.keys() == expected.keys()
    return max(float((found[path][1] - w).norm() / w.norm()) for path, w in expected.items())


def svd(weight: Tensor, x: Tensor, rank: int) -> Tensor:
    u, s, vt = torch.linalg.svd(weight, full_matrices=False)
    result: Tensor = (u[:, :rank] * s[:rank]) @ vt[:rank]
    return result


def whitened(weight: Tensor, x: Tensor, rank: int) -> Tensor:
    second, first = literal.input_aware(weight, x, rank)
    return second @ first


def by_eigenvectors(weight: Tensor, x: Tensor, rank: int) -> Tensor:
    """SVD-LLM V2's truncation: the symmetric root by eigenvalues, on both sides."""
    values, vectors = torch.linalg.eigh(x @ x.T)
    u, s, vt = torch.linalg.svd(weight @ vectors * values.sqrt(), full_matrices=False)
    result: Tensor = (u[:, :rank] * s[:rank]) @ vt[:rank] @ torch.diag(values.rsqrt()) @ vectors.T
    return result


def by_outputs(weight: Tensor, x: Tensor, rank: int) -> Tensor:
    """Swift-SVD: the projection on the leading eigenvectors of the outputs' second moment."""
    leading = torch.linalg.eigh(weight @ x @ x.T @ weight.T)[1][:, -rank:]
    result: Tensor = leading @ leading.T @ weight
    return result


@pytest.mark.parametrize(
    ("recipe", "rule"),
    [("svd", svd), ("svd-llm", whitened), ("svd-llm", by_eigenvectors), ("svd-llm", by_outputs)],
)
def test_those_that_look_at_the_original_model(recipe, rule, dense: PreTrainedModel, tokens: Tensor) -> None:
    model = literal.double(dense)
    x = literal.inputs(model, tokens)
    found = compressed(dense, recipe, tokens)
    ranks = {path: literal.uniform_rank(w, KEEP) for path, w in literal.weights(model).items()}
    assert {path: rank for path, (rank, _) in found.items()} == ranks
    expected = {path: rule(w, x[path], ranks[path]) for path, w in literal.weights(model).items()}
    assert worst(found, expected) < 1e-4


@pytest.mark.parametrize("recipe", ["dobi-shift", "aa-svd-layer", "saes-svd"])
def test_those_that_look_at_the_compressed_model(recipe: str, dense: PreTrainedModel, tokens: Tensor) -> None:
    keep = 0.8  # at less, the inputs of the output projection hardly span their space

    def solve(weight: Tensor, x: Tensor, z: Tensor) -> literal.Product:
        rank = literal.uniform_rank(weight, keep)
        if recipe == "saes-svd":
            return literal.Product(literal.saes(weight, x, z, rank))
        second, first = literal.paired(weight, x, z, rank, 0.0 if recipe == "dobi-shift" else 1.0)
        return literal.Product(second @ first)

    model = literal.walk(literal.double(dense), tokens, solve)
    expected = {path: model.get_submodule(path).weight for path in literal.paths(model)}
    assert worst(compressed(dense, recipe, tokens, keep), expected) < 1e-3


def test_asvd_scales_inputs_by_their_size(dense: PreTrainedModel, tokens: Tensor) -> None:
    model = literal.double(dense)
    x = literal.inputs(model, tokens)
    recipe = eckart.load_recipe("asvd", ["allocation=uniform", "allocation.multiple=1", "allocation.fill_budget=false"])
    found = compressed(dense, recipe, tokens)
    rank = {path: literal.uniform_rank(w, KEEP) for path, w in literal.weights(model).items()}
    expected = {path: literal.scaled(w, x[path], rank[path]) for path, w in literal.weights(model).items()}
    assert worst(found, expected) < 1e-4
