"""Recipes that choose ranks against the published rules, from the model to the ranks: rounded down, no step more."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from tests.published import literal
from tests.published.zero_sum import one_shot, staged
from torch import Tensor
from transformers import PreTrainedModel

import eckart


def ranks_of(
    model: PreTrainedModel, recipe: str, keep: float, tokens: Tensor, *overrides: str
) -> dict[str, int | None]:
    report = eckart.compress(model, recipe, keep, tokens, overrides=overrides)
    return {layer.path: layer.rank for layer in report.layers}


@pytest.mark.parametrize("keep", [0.8, 0.6, 0.4])
def test_zero_sum_in_one_shot(keep: float, dense: PreTrainedModel, tokens: Tensor) -> None:
    expected = one_shot(literal.double(dense), tokens, keep)
    assert ranks_of(dense, "zs-svd", keep, tokens) == expected


def test_zero_sum_in_stages(dense: PreTrainedModel, tokens: Tensor) -> None:
    ranks, weights = staged(literal.double(dense), tokens, 0.6, 3)
    assert ranks_of(dense, "zs-svd-staged", 0.6, tokens, "allocation.stages=3") == ranks
    for path, expected in weights.items():
        layer = dense.get_submodule(path)
        found = layer.weight if ranks[path] is None else layer.dense_weight()
        assert (found - expected).norm() < 2e-3 * expected.norm()


def test_truncation_loss(dense: PreTrainedModel, tokens: Tensor) -> None:
    keep, model = 0.6, literal.double(dense)
    x, weights = literal.inputs(model, tokens), literal.weights(model)
    expected = {}
    for kind in (name for group in literal.GROUPS for name in group):
        members = [path for path in weights if path.endswith(kind)]
        losses = []
        for path in members:
            second, first = literal.input_aware(weights[path], x[path], literal.uniform_rank(weights[path], keep))
            losses.append(float(((weights[path] - second @ first) @ x[path]).norm()))
        assert min(losses) > math.e  # below that, the paper's formula has no answer
        inverse = [1 / math.log(loss) for loss in losses]
        for path, part in zip(members, inverse, strict=True):
            removed = len(members) * (1 - keep) * part / sum(inverse)
            expected[path] = literal.uniform_rank(weights[path], 1 - removed)
    assert ranks_of(dense, "svd-llm-v2", keep, tokens) == expected


def test_search(dense: PreTrainedModel, tokens: Tensor) -> None:
    keep, model = 0.7, literal.double(dense)
    x, weights = literal.inputs(model, tokens), literal.weights(model)
    pairs, shares = [], (0.4, 0.6, 0.9)
    for path, weight in weights.items():
        for share in shares:
            rank = literal.uniform_rank(weight, share)
            alone = copy.deepcopy(model)
            alone.get_submodule(path).weight.data = literal.scaled(weight, x[path], rank)
            with torch.no_grad():
                pairs.append((float(literal.loss(alone, tokens)), path, rank))
    pairs.sort()
    for cut in range(len(pairs) + 1):
        below = {path: [rank for _, other, rank in pairs[:cut] if other == path] for path in weights}
        expected = {path: min(ranks, default=None) for path, ranks in below.items()}
        numbers = 0
        for path, weight in weights.items():
            rank_here = expected[path]
            numbers += weight.numel() if rank_here is None else rank_here * sum(weight.shape)
        if numbers <= keep * sum(w.numel() for w in weights.values()):
            break
    assert ranks_of(dense, "asvd", keep, tokens, f"allocation.shares={list(shares)}") == expected
