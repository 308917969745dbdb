from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.conftest import CONFIGS, make_model
from tests.methods.sensitivity.helpers import original_of
from torch import Tensor
from torch.nn import functional

from eckart.blocks.tensor_cache import ScratchSpace
from eckart.errors import NonFiniteError
from eckart.layers import weight_matrix
from eckart.maths.labels import NEXT_TOKENS, label_loss
from eckart.methods.metric import Fisher


def weight_gradients(original, metric=None, samples=None) -> tuple[dict[str, Tensor], dict[str, Tensor], int]:
    """The gradient at each weight, and the second moment of output gradients, by the streamed backward pass."""
    streams = original.forward()
    gradient, count = original.loss_gradient(
        streams[-1], NEXT_TOKENS if metric is None else metric.label_source, samples
    )
    first: dict[str, Tensor] = {}
    second: dict[str, Tensor] = {}

    def observe(ref, inputs, at_output):
        if at_output is None:
            return
        first[ref.path] = first.get(ref.path, 0) + at_output.T @ inputs
        second[ref.path] = second.get(ref.path, 0) + at_output.T @ at_output

    for index in reversed(range(len(original.blocks))):
        gradient = original.backward(index, streams[index], gradient, "", observe)
    return first, second, count


def summed_loss(model, tokens: Tensor) -> Tensor:
    logits = model(input_ids=tokens, use_cache=False).logits[:, :-1].flatten(0, 1)
    return functional.cross_entropy(logits.float(), tokens[:, 1:].flatten(), reduction="sum")


@pytest.mark.parametrize("kind", CONFIGS)
def test_streamed_gradients_are_those_of_plain_autograd(kind, tokens):
    model = make_model(kind)
    original = original_of(model, tokens)
    streamed, _, count = weight_gradients(original)
    model.zero_grad()
    summed_loss(model, tokens).backward()
    assert count == tokens[:, 1:].numel()
    assert len(streamed) == sum(len(block.linears) for block in original.blocks)
    for path, gradient in streamed.items():
        expected = model.get_submodule(path).weight.grad
        expected = expected if weight_matrix(model.get_submodule(path)).shape == expected.shape else expected.T
        if gradient.shape != expected.shape or not torch.allclose(gradient, expected, rtol=1e-3, atol=1e-4):
            expected = expected.T  # Conv1D stores the transpose, also where it is square
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_second_moments_are_those_of_single_tokens(llama, tokens):
    original = original_of(llama, tokens)
    _, second, _ = weight_gradients(original, Fisher(labels="next"))
    path = "model.layers.1.mlp.down_proj"
    outputs: list[Tensor] = []
    handle = llama.get_submodule(path).register_forward_hook(lambda _, __, output: outputs.append(output))
    loss = summed_loss(llama, tokens)
    handle.remove()
    gradient = torch.autograd.grad(loss, outputs[0])[0].flatten(0, 1)
    expected = sum(torch.outer(row, row) for row in gradient)
    torch.testing.assert_close(second[path], expected, rtol=1e-4, atol=1e-6)


def test_only_the_first_samples_count(llama, tokens):
    some, _, count = weight_gradients(original_of(llama, tokens), samples=5)
    alone, _, count_alone = weight_gradients(original_of(llama, tokens[:5]))
    assert count == count_alone
    for path in some:
        torch.testing.assert_close(some[path], alone[path], rtol=1e-4, atol=1e-5)


def test_streams_in_files_give_the_same(llama, tokens, tmp_path: Path):
    in_memory, _, _ = weight_gradients(original_of(llama, tokens))
    in_files, _, _ = weight_gradients(original_of(llama, tokens, ScratchSpace(in_memory=False, folder=tmp_path)))
    assert all(torch.equal(in_memory[path], in_files[path]) for path in in_memory)


def test_frozen_weights_and_an_unused_linear_are_no_obstacle(llama, tokens):
    llama.requires_grad_(False)
    llama.model.layers[0].unused = torch.nn.Linear(4, 4)
    streamed, _, _ = weight_gradients(original_of(llama, tokens))
    assert all(torch.isfinite(gradient).all() for gradient in streamed.values())


def test_a_linear_whose_output_goes_nowhere_has_no_gradient(llama, tokens):
    layer = llama.model.layers[1].mlp
    forward = layer.forward
    layer.forward = lambda hidden: forward(hidden) + 0 * layer.up_proj(hidden).detach().sum()
    streamed, _, _ = weight_gradients(original_of(llama, tokens))
    assert torch.isfinite(streamed["model.layers.1.mlp.up_proj"]).all()


def test_a_gradient_that_is_not_finite_is_an_error_that_names_the_place(llama, tokens):
    original = original_of(llama, tokens)
    streams = original.forward()
    gradient, _ = original.loss_gradient(streams[-1])
    with torch.no_grad():
        llama.model.layers[2].mlp.down_proj.weight.fill_(float("inf"))
    with pytest.raises(NonFiniteError, match=r"model\.layers\.2"):
        original.backward(2, streams[2], gradient, "", lambda *_: None)
    with torch.no_grad():
        llama.lm_head.weight.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="gradient of the loss"):
        original.loss_gradient(streams[-1])


def test_losses_of_streams_are_those_of_the_model(llama, tokens):
    original = original_of(llama, tokens)
    streams = original.forward()
    expected = float(summed_loss(llama, tokens).detach()) / tokens[:, 1:].numel()
    assert original.mean_losses([streams[-1]])[0] == pytest.approx(expected, rel=1e-5)


def test_sampled_labels_give_the_curvature_of_the_predictions(llama):
    """In expectation, the second moment at the logits is diag(p) - p p^T."""
    logits = torch.randn(1, 1, 6, generator=torch.Generator().manual_seed(0)).repeat(1, 40000, 1).requires_grad_(True)
    loss, count = label_loss(logits, torch.zeros(1, 40000), Fisher().label_source, torch.Generator().manual_seed(0))
    gradient = torch.autograd.grad(loss, logits)[0][0]
    odds = logits[0, 0].detach().softmax(-1)
    assert count == 40000
    torch.testing.assert_close(gradient.T @ gradient / count, odds.diag() - torch.outer(odds, odds), atol=0.01, rtol=0)
