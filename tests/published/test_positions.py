"""Dobi-SVD's training of truncation positions against a loop in float64 that torch differentiates."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from tests.methods.sensitivity.helpers import original_of
from tests.published import literal
from torch import Tensor
from transformers import PreTrainedModel

from eckart.methods.allocation import Budgets, Learned
from eckart.methods.allocation.truncation_points import train_truncation_points
from eckart.methods.layout import Layout

KEEP, PENALTY, SHARPNESS, FIRST_RATE, LAST_RATE = 0.6, 200.0, 1.0, 0.5, 0.4


def literal_positions(model: PreTrainedModel, batches: tuple[Tensor, ...], epochs: int) -> dict[str, float]:
    """Return the trained rank of each linear, as a share of min(m, n).

    Per sequence, ``y = U diag(s_i (tanh(b (p - i)) / 2 + 1/2)) V^T``; perplexity, plus 200 times how far the share of
    the numbers is from the budget, plus how far positions are out of range; Adam, its rate on half a cosine.
    """
    weights = literal.weights(model)
    length = batches[0].shape[1]
    sizes = {path: min(length, weight.shape[0]) for path, weight in weights.items()}
    positions = {
        path: torch.tensor(
            sizes[path] * literal.uniform_rank(weight, KEEP) / min(weight.shape) - 0.5,
            dtype=torch.float64,
            requires_grad=True,
        )
        for path, weight in weights.items()
    }

    def truncate(path: str, output: Tensor) -> Tensor:
        u, s, vt = torch.linalg.svd(output, full_matrices=False)
        index = torch.arange(s.shape[-1], dtype=torch.float64)
        gates = 0.5 * torch.tanh(SHARPNESS * (positions[path] - index)) + 0.5
        result: Tensor = u @ torch.diag_embed(s * gates) @ vt
        return result

    for path in weights:
        model.get_submodule(path).register_forward_hook(lambda _, __, output, path=path: truncate(path, output))
    optimiser = torch.optim.Adam(list(positions.values()), lr=FIRST_RATE)
    for step in range(epochs * len(batches)):
        share = torch.zeros(()) + sum(
            (positions[path] + 0.5) / sizes[path] * min(weight.shape) * sum(weight.shape)
            for path, weight in weights.items()
        ) / sum(weight.numel() for weight in weights.values())
        outside = sum((-p).relu() + (p - sizes[path]).relu() for path, p in positions.items())
        perplexity = literal.loss(model, batches[step % len(batches)]).exp()
        wave = (1 + math.cos(math.pi * step / (epochs * len(batches)))) / 2
        optimiser.param_groups[0]["lr"] = LAST_RATE + (FIRST_RATE - LAST_RATE) * wave
        optimiser.zero_grad()
        (perplexity + PENALTY * (share - KEEP).abs() + outside).backward()
        optimiser.step()
    return {path: float((p.detach() + 0.5) / sizes[path]) for path, p in positions.items()}


def test_positions_are_trained_by_the_published_loss(dense: PreTrainedModel, tokens: Tensor) -> None:
    numbers = {"learning_rate": FIRST_RATE, "final_learning_rate": LAST_RATE, "penalty": PENALTY}
    original = original_of(dense, tokens[:4])
    batches = tuple(batch["input_ids"] for batch in original.batches())
    expected = literal_positions(literal.double(copy.deepcopy(dense)), batches, epochs=2)
    allocation = Learned(epochs=2, sharpness=SHARPNESS, **numbers)
    found = train_truncation_points(original, allocation, Budgets(KEEP), Layout(), lambda *_: None)
    assert len(set(expected.values())) > 5
    for path, share in expected.items():
        assert found[path] == pytest.approx(share, abs=2e-3), path
