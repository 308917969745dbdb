"""Gradients that go block by block, against plain autograd of the whole model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import CONFIGS, make_model
from tests.tiny_models import MAKERS, blockwise, forward_inputs, make
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from eckart.blocks.backward import BackwardPass, entrance_gradients
from eckart.blocks.block import LinearRef
from eckart.blocks.block_arguments import run_model
from eckart.blocks.blockwise_model import BlockwiseModel
from eckart.blocks.losses import model_loss
from eckart.blocks.tensor_cache import ScratchSpace
from eckart.errors import NonFiniteError
from eckart.maths.labels import NEXT_TOKENS, LabelSource
from eckart.methods.metric import Fisher


class Sums:
    """The gradient at each weight, and the second moment of output gradients, by the streamed backward pass."""

    def __init__(self, model: BlockwiseModel, source: LabelSource = NEXT_TOKENS, samples: int | None = None) -> None:
        self.first: dict[str, Tensor] = {}
        self.second: dict[str, Tensor] = {}
        gradient = BackwardPass.of_loss(model, model.forward(), source, samples)
        for index in reversed(range(len(model.blocks))):
            gradient.step(index, self.observe)
        gradient.close()
        self.count = gradient.count

    def observe(self, ref: LinearRef, inputs: Tensor, at_output: Tensor | None, asked: slice | None) -> None:
        assert asked is None
        if at_output is not None:
            self.first[ref.path] = self.first.get(ref.path, torch.zeros(())) + at_output.T @ inputs
            self.second[ref.path] = self.second.get(ref.path, torch.zeros(())) + at_output.T @ at_output


def next_tokens(model: PreTrainedModel, tokens: Tensor) -> Tensor:
    logits = model(input_ids=tokens, use_cache=False).logits[:, :-1].flatten(0, 1)
    return functional.cross_entropy(logits.float(), tokens[:, 1:].flatten(), reduction="sum")


def assert_close(model: PreTrainedModel, found: dict[str, Tensor], tolerance: float = 1e-4) -> None:
    """Compare gradients with those that autograd left at the weights of the model."""
    for path, gradient in found.items():
        linear = model.get_submodule(path)
        expected = linear.get_parameter("weight").grad
        if expected is None:
            assert not gradient.any(), path
            continue
        expected = expected.T if isinstance(linear, Conv1D) else expected
        scale = float(expected.abs().max())
        torch.testing.assert_close(gradient, expected, rtol=10 * tolerance, atol=tolerance * scale, msg=path)


@pytest.mark.parametrize("kind", CONFIGS)
def test_streamed_gradients_are_those_of_plain_autograd(kind: str, tokens: Tensor) -> None:
    model = make_model(kind)
    original = blockwise(model, tokens)
    found = Sums(original)
    next_tokens(model, tokens).backward()
    assert found.count == tokens[:, 1:].numel()
    assert len(found.first) == sum(len(block.linears) for block in original.blocks)
    assert_close(model, found.first)


@pytest.mark.parametrize("kind", MAKERS)
def test_gradients_reach_the_blocks_of_all_towers(kind: str) -> None:
    """Through the model's own code between blocks, and through what blocks are handed beside hidden states."""
    model, samples = make(kind)
    model.requires_grad_(True)
    original = blockwise(model, samples)
    found = Sums(original)
    generator = torch.Generator().manual_seed(original.seed)  # of a direction, where the model gives vectors
    count = 0
    for sample, inputs in zip(samples, original.batches(), strict=True):
        output = run_model(model, forward_inputs(model, sample))
        loss, predictions = model_loss(output, inputs, NEXT_TOKENS, generator, predicts_next=original.predicts_next)
        loss.backward()
        count += predictions
    assert found.count == count
    assert_close(model, found.first)
    # Only of a block that nobody looks at.
    reached = {path for path, gradient in found.first.items() if gradient.any()}
    unused = {ref.path for block in original.blocks for ref in block.linears} - reached
    assert all("vision_tower.encoder.layers.2" in path for path in unused)
    assert bool(unused) == (kind == "llava")


def test_labels_that_are_drawn_are_the_same_in_every_segment() -> None:
    model, samples = make("bart")
    original = blockwise(model, samples)
    source = Fisher().label_source
    found = Sums(original, source)
    generator = torch.Generator().manual_seed(original.seed)
    for sample, inputs in zip(samples, original.batches(), strict=True):
        output = run_model(model, forward_inputs(model, sample))
        model_loss(output, inputs, source, generator, predicts_next=False)[0].backward()
    assert_close(model, found.first)


def test_second_moments_are_those_of_single_tokens(llama: PreTrainedModel, tokens: Tensor) -> None:
    found = Sums(blockwise(llama, tokens), Fisher(labels="next").label_source)
    path = "model.layers.1.mlp.down_proj"
    outputs: list[Tensor] = []
    handle = llama.get_submodule(path).register_forward_hook(lambda _, __, output: outputs.append(output))
    loss = next_tokens(llama, tokens)
    handle.remove()
    gradient = torch.autograd.grad(loss, outputs[0])[0].flatten(0, 1)
    expected = torch.stack([torch.outer(row, row) for row in gradient]).sum(0)
    torch.testing.assert_close(found.second[path], expected, rtol=1e-4, atol=1e-6)


def test_only_the_first_samples_count(llama: PreTrainedModel, tokens: Tensor) -> None:
    some, alone = Sums(blockwise(llama, tokens), samples=5), Sums(blockwise(llama, tokens[:5]))
    assert some.count == alone.count
    for path, gradient in some.first.items():
        torch.testing.assert_close(gradient, alone.first[path], rtol=1e-4, atol=1e-5)


def test_only_the_first_samples_of_several_segments_count() -> None:
    model, samples = make("llava")
    some, alone = Sums(blockwise(model, samples), samples=2), Sums(blockwise(model, samples[:2]))
    assert some.count == alone.count
    for path, gradient in some.first.items():
        torch.testing.assert_close(gradient, alone.first[path], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "bart", "qwen3-vl"])
def test_streams_in_files_give_the_same(kind: str, tmp_path: Path) -> None:
    model, samples = make(kind)
    in_memory = Sums(blockwise(model, samples)).first
    in_files = Sums(blockwise(model, samples, ScratchSpace(in_memory=False, folder=tmp_path))).first
    assert in_memory.keys() == in_files.keys()
    assert all(torch.equal(in_memory[path], in_files[path]) for path in in_memory)


def test_frozen_weights_and_an_unused_linear_are_no_obstacle(llama: PreTrainedModel, tokens: Tensor) -> None:
    llama.requires_grad_(False)
    llama.model.layers[0].unused = torch.nn.Linear(4, 4)
    found = Sums(blockwise(llama, tokens)).first
    assert all(torch.isfinite(gradient).all() for gradient in found.values())


def test_a_linear_whose_output_goes_nowhere_has_no_gradient(llama: PreTrainedModel, tokens: Tensor) -> None:
    layer: Any = llama.model.layers[1].mlp
    layer.forward = lambda hidden: layer.down_proj(layer.gate_proj(hidden)) + 0 * layer.up_proj(hidden).detach().sum()
    seen: dict[str, Tensor | None] = {}
    model = blockwise(llama, tokens)
    gradient = BackwardPass.of_loss(model, model.forward())
    for index in (2, 1):
        gradient.step(index, lambda ref, inputs, at_output, asked: seen.update({ref.path: at_output}))
    assert seen["model.layers.1.mlp.up_proj"] is None
    assert all(at is not None for path, at in seen.items() if path != "model.layers.1.mlp.up_proj")


def test_gradients_of_other_tensors_are_summed_over_batches(llama: PreTrainedModel, tokens: Tensor) -> None:
    scale, nothing = torch.ones(32, requires_grad=True), torch.ones(1, requires_grad=True)
    layer: Any = llama.model.layers[1]
    forward = layer.mlp.forward
    layer.mlp.forward = lambda hidden: forward(hidden) * scale
    model = blockwise(llama, [{"input_ids": row[None]} for row in tokens[:3]])
    gradient = BackwardPass.of_loss(model, model.forward())
    gradient.step(2)
    found = gradient.step(1, more=[scale, nothing])
    (expected,) = torch.autograd.grad(next_tokens(llama, tokens[:3]), scale)
    assert found[1] is None
    assert found[0] is not None
    torch.testing.assert_close(found[0], expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_a_gradient_that_is_not_finite_is_an_error_that_names_the_place(llama: PreTrainedModel, tokens: Tensor) -> None:
    original = blockwise(llama, tokens)
    streams = original.forward()
    gradient = BackwardPass.of_loss(original, streams)
    with torch.no_grad():
        llama.model.layers[2].mlp.down_proj.weight.fill_(float("inf"))
    with pytest.raises(NonFiniteError, match=r"model\.layers\.2"):
        gradient.step(2)
    with torch.no_grad():
        llama.lm_head.weight.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="gradient of the loss"):
        BackwardPass.of_loss(original, streams)


def test_an_entrance_that_no_gradient_goes_through_gives_zeros() -> None:
    """As that of a decoder whose hidden states are embeddings, if no block looks at the encoder."""
    model, samples = make("bart")
    original = blockwise(model, samples[:1])
    (inputs,) = original.batches()
    outputs = {1: torch.randn(1, 9, 32)}
    front = torch.randn(1, 5, 32)
    with original.entrance(2) as enter:
        found = entrance_gradients(enter, inputs, outputs, front, {}, original.device, original.compute)
    assert torch.equal(found[1], torch.zeros(1, 9, 32))


def test_an_output_that_is_written_to_has_the_gradient_in_front_of_that(llama: PreTrainedModel, tokens: Tensor) -> None:
    layer: Any = llama.model.layers[1].mlp
    layer.forward = lambda hidden: layer.down_proj(layer.up_proj(hidden).mul_(3))
    found = Sums(blockwise(llama, tokens))
    next_tokens(llama, tokens).backward()
    assert_close(llama, {path: gradient for path, gradient in found.first.items() if "gate" not in path})


def test_batches_without_gradients_are_not_run_backward(tokens: Tensor) -> None:
    original = blockwise(make_model("llama"), [{"input_ids": row[None, : 9 + n]} for n, row in enumerate(tokens[:3])])
    batches = len(list(original.batches()))
    assert batches == 3
    for all_inputs in (True, False):
        gradient = BackwardPass.of_loss(original, original.forward(), samples=1)
        seen: dict[str, list[bool]] = {}

        def observe(
            ref: LinearRef, inputs: Tensor, at_output: Tensor | None, asked: slice | None, seen: Any = seen
        ) -> None:
            assert inputs.shape[1] == ref.in_features
            seen.setdefault(ref.path, []).append(at_output is not None)

        for index in reversed(range(len(original.blocks))):
            gradient.step(index, observe, all_inputs=all_inputs)
        gradient.close()
        expected = [True, *[False] * (batches - 1)] if all_inputs else [True]
        assert all(found == expected for found in seen.values())
