"""AA-SVD's block refinement word by word in float64: AdamW written out, samples in their order, all epochs."""

from __future__ import annotations

import math
from typing import Any

import torch
from tests.published import literal
from torch import Tensor, nn
from transformers import PreTrainedModel

Call = tuple[tuple[Any, ...], dict[str, Any]]


def call_of(model: PreTrainedModel, index: int, tokens: Tensor) -> tuple[Call, Tensor]:
    """Return how a model calls one of its blocks on some samples, and what the block gives."""
    seen: list[Any] = []

    def record(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        seen.extend([(args, kwargs), output if isinstance(output, Tensor) else output[0]])

    handle = model.model.layers[index].register_forward_hook(record, with_kwargs=True)
    with torch.no_grad():
        model(input_ids=tokens, use_cache=False)
    handle.remove()
    return seen[0], seen[1].detach()


def rate(step: int, steps: int, highest: float) -> float:
    """Return the learning rate: up over a tenth of the steps, cut, from 0, then down to a tenth along a cosine."""
    rising = int(0.1 * steps)
    if step < rising:
        return highest * step / rising
    return highest * (0.1 + 0.9 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising))) / 2)


def refine(
    original: PreTrainedModel,
    compressed: PreTrainedModel,
    index: int,
    tokens: Tensor,
    *,
    epochs: int,
    batch: int,
    highest: float,
) -> None:
    """Train all parameters of a block of the compressed model, in place."""
    data = []
    for part in torch.split(tokens, batch):
        data.append((call_of(compressed, index, part)[0], call_of(original, index, part)[1]))
    block = compressed.model.layers[index]
    parameters = [parameter.requires_grad_(True) for parameter in block.parameters()]
    first = [torch.zeros_like(parameter) for parameter in parameters]
    second = [torch.zeros_like(parameter) for parameter in parameters]
    step, steps = 0, epochs * len(data)
    for _ in range(epochs):
        for (args, kwargs), target in data:
            output = block(*args, **kwargs)
            error = (output if isinstance(output, Tensor) else output[0]) - target
            gradients = torch.autograd.grad(error.square().mean(), parameters)
            norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
            scale, now = min(1.0, 1.0 / (float(norm) + 1e-6)), rate(step, steps, highest)
            step += 1
            with torch.no_grad():
                for parameter, gradient, m, v in zip(parameters, gradients, first, second, strict=True):
                    m.mul_(0.9).add_(0.1 * scale * gradient)
                    v.mul_(0.999).add_(0.001 * (scale * gradient) ** 2)
                    parameter.mul_(1 - now * 0.01)
                    parameter.sub_(now * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8))
    for parameter in parameters:
        parameter.requires_grad_(False)


def aa_svd(
    model: PreTrainedModel, tokens: Tensor, keep: float, *, anchored: bool, epochs: int, batch: int, highest: float
) -> PreTrainedModel:
    """Return the compressed copy of a model in float64: objective 2, or 4 if it is anchored, and each block refined."""

    def solve(weight: Tensor, x: Tensor, z: Tensor) -> literal.Factors:
        rank = literal.uniform_rank(weight, keep)
        if anchored:
            return literal.Factors(*literal.paired(weight, x, z, rank, 1.0))
        return literal.Factors(*literal.input_aware(weight, x, rank))

    def after_block(index: int, compressed: PreTrainedModel) -> None:
        refine(model, compressed, index, tokens, epochs=epochs, batch=batch, highest=highest)

    return literal.walk(model, tokens, solve, after_block)
