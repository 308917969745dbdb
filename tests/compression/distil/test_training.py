"""Distillation, against a literal loop over the whole model."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.conftest import CONFIGS, dealt, make_model
from tests.tiny_models import Samples, forward_inputs, make
from torch import Tensor, nn
from transformers import PreTrainedModel

import eckart
from eckart.blocks.discovery import block_lists
from eckart.methods.distillation import LogitDistillation
from eckart.methods.training.schedule import learning_rate_factor

SETTINGS = ["distillation=logits", "distillation.epochs=3", "distillation.learning_rate=3e-3"]


def divergence(student: PreTrainedModel, teacher: PreTrainedModel, inputs: Tensor | dict[str, Tensor]) -> Tensor:
    """Return the KL divergence a token, by sequence, from the models as a whole."""
    inputs = {"input_ids": inputs} if isinstance(inputs, Tensor) else forward_inputs(student, inputs)
    with torch.no_grad():
        expected = teacher(**inputs).logits.double().softmax(-1)
    found = student(**inputs).logits.double().log_softmax(-1)
    result: Tensor = (expected * (expected.log() - found)).sum(-1).mean(-1)
    return result


def loss_of(student: PreTrainedModel, teacher: PreTrainedModel, part: Tensor | Samples) -> Tensor:
    """Return the mean over predictions."""
    if isinstance(part, Tensor):
        return divergence(student, teacher, part).mean()
    counts = [predictions_of(student, sample) for sample in part]
    sums = [divergence(student, teacher, sample).sum() * n for sample, n in zip(part, counts, strict=True)]
    return torch.stack(sums).sum() / sum(counts)


def predictions_of(model: PreTrainedModel, sample: dict[str, Tensor]) -> int:
    """Return how many tokens are predicted."""
    inputs = forward_inputs(model, sample)
    return inputs.get("decoder_input_ids", inputs["input_ids"]).numel()


def literal(student: PreTrainedModel, teacher: PreTrainedModel, tokens: Tensor | Samples, batch: int) -> None:
    """Train in place: whole batches, in order, nothing held out."""
    plan = LogitDistillation(epochs=3, learning_rate=3e-3)
    blocks = nn.ModuleList(block for _, found in block_lists(student) for block in found)
    optimisers = [
        torch.optim.AdamW([{"params": [p]} for p in block.parameters()], weight_decay=0.0) for block in blocks
    ]
    sizes = {id(p): p.detach().square().mean().sqrt().item() for p in blocks.parameters()}
    batches = torch.split(tokens, batch) if isinstance(tokens, Tensor) else [tokens]
    step, steps = 0, plan.epochs * len(batches)
    for _ in range(plan.epochs):
        for part in batches:
            loss_of(student, teacher, part).backward()
            factor = learning_rate_factor(step, steps, plan.warmup, plan.final_learning_rate)
            for block, optimiser in zip(blocks, optimisers, strict=True):
                nn.utils.clip_grad_norm_(block.parameters(), plan.gradient_norm)
                for group in optimiser.param_groups:
                    group["lr"] = plan.learning_rate * factor * sizes[id(group["params"][0])]
                optimiser.step()
            student.zero_grad()
            step += 1


@pytest.mark.parametrize(("kind", "batch"), dealt(CONFIGS, [1, 3]))
def test_equals_the_literal_loop(kind: str, batch: int, tokens: Tensor) -> None:
    teacher = make_model(kind)
    unrefined, student = copy.deepcopy(teacher), copy.deepcopy(teacher)
    eckart.compress(unrefined, "svd-llm", 0.5, tokens)
    settings = [*SETTINGS, "distillation.shuffle=false", "distillation.held_out=0", f"distillation.batch={batch}"]
    report = eckart.compress(student, "svd-llm", 0.5, tokens, overrides=settings)
    expected = copy.deepcopy(unrefined).requires_grad_(True)
    literal(expected, teacher, tokens, batch)
    assert report.distillation is not None
    assert len(report.distillation.epochs) == report.distillation.kept_epoch == 3
    theirs = dict(expected.named_parameters())
    moved = 0.0
    for name, ours in student.named_parameters():
        torch.testing.assert_close(ours, theirs[name], rtol=1e-3, atol=1e-4, msg=name)
        moved = max(moved, float((ours - dict(unrefined.named_parameters())[name]).detach().abs().max()))
    assert moved > 1e-3


@pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning")
@pytest.mark.parametrize(
    ("kind", "memory"),
    [("bart", None), ("bart", 1), ("t5", None), ("llava", None), ("qwen3-vl", None), ("gemma3n", None), ("gemma3n", 1)],
)
def test_equals_the_literal_loop_through_all_towers(kind: str, memory: int | None) -> None:
    """With gradients through the model's own code, and through what blocks are handed beside hidden states."""
    teacher, samples = make(kind, count=4)
    unrefined, student = copy.deepcopy(teacher), copy.deepcopy(teacher)
    eckart.compress(unrefined, "svd-llm", 0.5, samples)
    settings = [*SETTINGS, "distillation.shuffle=false", "distillation.held_out=0", "distillation.batch=4"]
    eckart.compress(student, "svd-llm", 0.5, samples, overrides=settings, memory=memory)
    expected = copy.deepcopy(unrefined).requires_grad_(True)
    for name, parameter in expected.named_parameters():
        if "relative_attention_bias" in name:  # which other blocks are handed
            parameter.requires_grad_(False)
    literal(expected, teacher, samples, 4)
    theirs, before = dict(expected.named_parameters()), dict(unrefined.named_parameters())
    moved = set()
    for name, ours in student.named_parameters():
        torch.testing.assert_close(ours, theirs[name], rtol=1e-3, atol=1e-3, msg=name)
        if float((ours - before[name]).detach().abs().max()) > 5e-3:
            moved.add(name.partition("layers." if "layers" in name else "block")[0])
    towers = {"bart": 2, "t5": 2, "llava": 2, "qwen3-vl": 1, "gemma3n": 1}
    assert len(moved) >= towers[kind]


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_losses_are_those_of_whole_models(kind: str, tokens: Tensor) -> None:
    teacher = make_model(kind)
    unrefined, student = copy.deepcopy(teacher), copy.deepcopy(teacher)
    eckart.compress(unrefined, "svd-llm", 0.5, tokens)
    report = eckart.compress(student, "svd-llm", 0.5, tokens, overrides=[*SETTINGS, "distillation.held_out=0.25"])
    record = report.distillation
    assert record is not None
    held_out = tokens[-round(0.25 * len(tokens)) :]
    assert record.before == pytest.approx(divergence(unrefined, teacher, held_out).mean().item(), rel=1e-3)
    assert record.after == pytest.approx(divergence(student, teacher, held_out).mean().item(), rel=1e-3)
    losses = [record.before, *(epoch.held_out for epoch in record.epochs)]
    assert record.after == losses[record.kept_epoch] == min(loss for loss in losses if loss is not None)


def test_embedding_last_norm_and_head_stay(llama: PreTrainedModel, tokens: Tensor) -> None:
    before = {name: tensor.clone() for name, tensor in llama.state_dict().items()}
    eckart.compress(llama, "svd-llm", 0.5, tokens, overrides=[*SETTINGS, "distillation.held_out=0"])
    after = llama.state_dict()
    outside = [name for name in before if ".layers." not in name]
    assert len(outside) >= 2
    assert all(torch.equal(before[name], after[name]) for name in outside)
    norms = [name for name in before if ".layers." in name and "norm" in name]
    assert norms
    assert not any(torch.equal(before[name], after[name]) for name in norms)


def test_nothing_is_trained_where_nothing_was_lost(llama: PreTrainedModel, tokens: Tensor) -> None:
    before = copy.deepcopy(llama)
    report = eckart.compress(llama, "svd-llm", 1.0, tokens, overrides=SETTINGS)
    assert report.distillation is not None
    assert report.distillation.before == pytest.approx(0, abs=1e-6)
    for ours, theirs in zip(llama.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=5e-3, rtol=0)


@pytest.mark.parametrize("layout", ["structure=pivoted", "structure=hybrid", "precision=8-bit", "sharing=shared"])
def test_every_layout_can_be_distilled(layout: str, llama: PreTrainedModel, tokens: Tensor) -> None:
    settings = [*SETTINGS, layout, "distillation.learning_rate=1e-3", "distillation.epochs=6"]
    report = eckart.compress(llama, "svd-llm", 0.6, tokens, overrides=settings)
    record = report.distillation
    assert record is not None
    assert record.epochs[-1].training < record.epochs[0].training
