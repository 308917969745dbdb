"""Gradients of masks, block by block, against plain autograd through the whole model."""

from __future__ import annotations

import pytest
import torch
from tests.conftest import make_model
from tests.methods.sensitivity.helpers import original_of
from torch.nn import functional

import eckart
from eckart.layers import bias_vector
from eckart.maths.monotone_mask import hard_mask, soft_mask
from eckart.methods.allocation import Budgets, Masks, Needs
from eckart.methods.allocation.mask_training import MaskTraining, train_masks
from eckart.methods.layout import Layout
from eckart.methods.objectives import InputAware
from eckart.methods.sensitivity.measure import measure
from eckart.methods.sensitivity.request import Request
from eckart.methods.targets import Size

QUICK = Masks(bins=10, penalty=0.0)


def solutions_of(model, tokens):
    request = Request(InputAware(), Needs.SPECTRUM, keep_bases=True)
    return measure(original_of(model, tokens), request, lambda *_: None).solutions


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_gradients_are_those_of_plain_autograd(kind, tokens):
    """Some linears dense, whose gradient is that of their mask, too."""
    model = make_model(kind)
    original, solutions = original_of(model, tokens[:1]), solutions_of(model, tokens)
    training = MaskTraining(original, solutions, QUICK, Budgets(0.7), Layout())
    dense = [path for number, path in enumerate(training.trained) if number % 4 == 1]
    for path in dense:
        training.trained[path] = torch.linspace(0, 6, 10).requires_grad_(True)
    streams = original.forward()
    ends = {number: stream[0].clone() for number, stream in original.ends_of(streams.behinds).items()}
    training.accumulate(original, ends)
    streamed = {path: tensor.grad for path, tensor in training.trained.items() if tensor.grad is not None}
    assert streamed.keys() == training.trained.keys()

    with torch.no_grad():
        expected = model(input_ids=tokens[:1]).logits
    leaves = {path: tensor.detach().clone().requires_grad_(True) for path, tensor in training.trained.items()}
    shapes = {ref.path: ref.shape for ref in training.linears}

    def masked(path):
        def hook(linear, _, output):
            mask = soft_mask(leaves[path], min(shapes[path]))
            m, n = shapes[path]
            basis, dual = solutions[path]
            bias = bias_vector(linear)
            plain = output if bias is None else output - bias
            is_dense = float(mask.detach().sum()) * (m + n) >= m * n
            assert is_dense == (path in dense)
            plain = plain.detach() if is_dense else plain
            found = ((plain @ dual) * hard_mask(mask)) @ basis.T
            if is_dense:
                return output + found - found.detach()
            return found if bias is None else found + bias

        return hook

    handles = [model.get_submodule(path).register_forward_hook(masked(path)) for path in leaves]
    logits = model(input_ids=tokens[:1], use_cache=False).logits
    for handle in handles:
        handle.remove()
    loss = functional.kl_div(
        logits.flatten(0, 1).log_softmax(-1),
        expected.flatten(0, 1).log_softmax(-1),
        reduction="batchmean",
        log_target=True,
    )
    loss.backward()
    for path, gradient in streamed.items():
        torch.testing.assert_close(gradient, leaves[path].grad, rtol=1e-2, atol=1e-5)
        assert (gradient != 0).all()


def test_where_all_is_masked_in_nothing_changes(llama, tokens):
    """Bit for bit: a mask whose rank would take as many bytes as the weight runs the weight."""
    original, solutions = original_of(llama, tokens[:1]), solutions_of(llama, tokens)
    training = MaskTraining(original, solutions, QUICK, Budgets(0.7), Layout())
    for path in training.trained:
        training.trained[path] = torch.tensor([0.0] * 9 + [100.0]).requires_grad_(True)
    ref = training.linears[0]
    output = torch.randn(3, ref.out_features)
    linear = llama.get_submodule(ref.path)
    assert torch.equal(training.changed(ref, linear, output), output)
    assert training.rank(ref) == min(ref.shape)


def test_the_penalty_pulls_the_bytes_to_the_budget_and_said_ranks_stay(llama, tokens):
    original, solutions = original_of(llama, tokens[:2]), solutions_of(llama, tokens)
    paths = [ref.path for block in original.blocks for ref in block.linears]
    sizes = {paths[0]: Size("r", None, 4), paths[1]: Size("w", 1.0)}
    numbers = Masks(steps=12, bins=20, penalty=1e4, learning_rate=0.05)
    found = train_masks(original, solutions, numbers, Budgets(0.6, sizes), Layout(), lambda *_: None)
    shapes = {ref.path: ref.shape for block in original.blocks for ref in block.linears}
    assert found[paths[0]] == 4
    assert found[paths[1]] == min(shapes[paths[1]])
    spent = sum(min(found[p] * sum(shapes[p]), shapes[p][0] * shapes[p][1]) for p in paths[2:])
    assert spent / sum(shapes[p][0] * shapes[p][1] for p in paths[2:]) == pytest.approx(0.6, abs=0.04)


@pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning")
def test_where_all_ranks_are_said_nothing_is_trained(llama, tokens):
    report = eckart.compress(llama, "ara", 0.6, tokens, overrides=["targets.Linear.rank=3"])
    assert set(report.ranks.values()) == {3}
