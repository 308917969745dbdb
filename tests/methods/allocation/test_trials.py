from __future__ import annotations

import copy

import pytest
import torch
from tests.conftest import make_model
from tests.methods.sensitivity.helpers import original_of
from torch.nn import functional

from eckart.layers import weight_matrix
from eckart.methods.allocation import Needs
from eckart.methods.allocation.trials import trial_divergences, trial_losses
from eckart.methods.objectives import InputAware
from eckart.methods.sensitivity.measure import measure
from eckart.methods.sensitivity.request import Request


def test_losses_are_those_of_the_model_with_one_linear_truncated(llama, tokens):
    original = original_of(llama, tokens)
    before = {name: tensor.clone() for name, tensor in llama.state_dict().items()}
    request = Request(InputAware(), Needs.SPECTRUM, keep_bases=True)
    solutions = measure(original, request, lambda *_: None).solutions
    ranks = {path: [2, 5] for path in solutions}
    losses = trial_losses(original.cropped(4, 10), solutions, ranks, lambda *_: None)
    assert all(torch.equal(before[name], tensor) for name, tensor in llama.state_dict().items())
    assert losses.keys() == solutions.keys()
    for path in ("model.layers.0.self_attn.v_proj", "model.layers.2.mlp.down_proj"):
        for rank in (2, 5):
            truncated = copy.deepcopy(llama)
            weight = weight_matrix(truncated.get_submodule(path))
            basis, dual = (tensor[:, :rank] for tensor in solutions[path])
            with torch.no_grad():
                weight.copy_(basis @ (dual.T @ weight))
                logits = truncated(input_ids=tokens[:4, :10]).logits[:, :-1].flatten(0, 1)
            expected = float(functional.cross_entropy(logits, tokens[:4, 1:10].flatten()))
            assert losses[path][rank] == pytest.approx(expected, rel=1e-4)


def cut(model, solutions, ranks):
    """Return a copy of the model with some linears truncated."""
    found = copy.deepcopy(model)
    for path, rank in ranks.items():
        if rank is not None:
            weight = weight_matrix(found.get_submodule(path))
            basis, dual = (tensor[:, :rank] for tensor in solutions[path])
            with torch.no_grad():
                weight.copy_(basis @ (dual.T @ weight))
    return found


def divergence_of(ours, theirs, tokens, temperature, first):
    with torch.no_grad():
        p, q = (m(input_ids=tokens).logits[:, first:].double() / temperature for m in (theirs, ours))
        p, q = p.log_softmax(-1), q.log_softmax(-1)
    return float((p.exp() * (p - q)).sum(-1).mean())


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("from_rank", [None, 3])
def test_divergences_are_those_from_the_model_as_it_was(kind, from_rank, tokens):
    """With one linear changed, all others as they were or all at a rank."""
    model = make_model(kind)
    original = original_of(model, tokens)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    request = Request(InputAware(), Needs.SPECTRUM, keep_bases=True)
    solutions = measure(original, request, lambda *_: None).solutions
    tried = {path: [2, None, 5] for n, path in enumerate(solutions) if n % 5 == 0}
    base = dict.fromkeys(solutions, from_rank)
    sample = original.cropped(4, 10)
    found = trial_divergences(sample, solutions, tried, lambda *_: None, base, temperature=0.6, first=4)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    expected = divergence_of(cut(model, solutions, base), model, tokens[:4, :10], 0.6, 4)
    assert found.base == pytest.approx(expected, rel=1e-3, abs=1e-7)
    assert found.trials.keys() == tried.keys()
    for path, ranks in tried.items():
        for rank in ranks:
            expected = divergence_of(cut(model, solutions, {**base, path: rank}), model, tokens[:4, :10], 0.6, 4)
            assert found.trials[path][rank] == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_a_truncation_that_breaks_the_model_diverges_without_end(llama, tokens):
    original = original_of(llama, tokens).cropped(2, 8)
    paths = [ref.path for block in original.blocks for ref in block.linears]
    shapes = {ref.path: ref.shape for block in original.blocks for ref in block.linears}
    solutions = {path: (torch.full((shapes[path][0], 2), 1e30),) * 2 for path in paths}
    found = trial_divergences(original, solutions, {path: [1] for path in paths[:2]}, lambda *_: None)
    assert found.base == 0
    assert [found.trials[path][1] for path in paths[:2]] == [float("inf")] * 2
