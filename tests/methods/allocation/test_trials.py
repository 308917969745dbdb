from __future__ import annotations

import copy

import pytest
import torch
from tests.methods.sensitivity.helpers import original_of
from torch.nn import functional

from eckart.layers import weight_matrix
from eckart.methods.allocation import Needs
from eckart.methods.allocation.trials import trial_losses
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
