from __future__ import annotations

import pytest
import torch
from tests.methods.sensitivity.helpers import original_of

from eckart.maths.soft_truncation import soft_truncate
from eckart.methods.allocation import Budgets, Learned
from eckart.methods.allocation.truncation_points import TruncationTraining, train_truncation_points
from eckart.methods.layout import Layout
from eckart.methods.targets import Size


def gradient_of(position: torch.Tensor) -> float:
    assert position.grad is not None
    return float(position.grad)


def test_gradients_of_positions_are_those_of_plain_autograd(llama, tokens):
    original = original_of(llama, tokens[:3])
    training = TruncationTraining(original, Learned(penalty=0.0, sharpness=1.0), Budgets(0.5), Layout())
    training.accumulate(original.batch(0))
    streamed = {path: gradient_of(position) for path, position in training.positions.items()}

    positions = {path: position.detach().clone().requires_grad_(True) for path, position in training.positions.items()}
    handles = [
        llama.get_submodule(path).register_forward_hook(
            lambda _, __, output, path=path: soft_truncate(output, positions[path], 1.0)
        )
        for path in positions
    ]
    logits = llama(input_ids=tokens[:3], use_cache=False).logits[:, :-1].flatten(0, 1)
    torch.nn.functional.cross_entropy(logits, tokens[:3, 1:].flatten()).exp().backward()
    for handle in handles:
        handle.remove()
    for path, gradient in streamed.items():
        assert gradient == pytest.approx(gradient_of(positions[path]), rel=2e-2, abs=1e-3)


def test_the_penalty_pulls_the_bytes_to_the_budget(llama, tokens):
    """Positions that only pay for bytes, started at the budget, stay near it."""
    allocation = Learned(epochs=2, learning_rate=0.05, final_learning_rate=0.01, penalty=1e4)
    found = train_truncation_points(original_of(llama, tokens[:4]), allocation, Budgets(0.5), Layout(), lambda *_: None)
    shapes = {path: llama.get_submodule(path).weight.shape for path in found}
    spent = sum(share * min(shapes[path]) * sum(shapes[path]) for path, share in found.items())
    assert spent / sum(m * n for m, n in shapes.values()) == pytest.approx(0.5, abs=0.05)
    assert all(0 <= share <= 1 for share in found.values())
    assert len(set(found.values())) > 5


def test_each_budget_is_paid_for_by_its_own_linears(llama, tokens):
    """What has a rank already is not trained; nor is what keeps all."""
    original = original_of(llama, tokens[:4])
    paths = [ref.path for block in original.blocks for ref in block.linears]
    rank, whole, own = Size("r", None, 4), Size("w", 1.0), Size("o", 0.8)
    by_end = {"q_proj": rank, "v_proj": whole, "up_proj": own, "down_proj": own}
    sizes = {path: by_end[end] for path in paths if (end := path.rpartition(".")[2]) in by_end}
    allocation = Learned(epochs=2, learning_rate=0.05, final_learning_rate=0.01, penalty=1e4)
    found = train_truncation_points(original, allocation, Budgets(0.5, sizes), Layout(), lambda *_: None)
    shapes = {path: llama.get_submodule(path).weight.shape for path in found}
    for path, size in sizes.items():
        if size is not own:
            assert found[path] == pytest.approx(4 / 32 if size is rank else 1.0)
    others = [path for path in paths if path not in sizes]
    for members, share in (([path for path in sizes if sizes[path] is own], 0.8), (others, 0.5)):
        spent = sum(found[path] * min(shapes[path]) * sum(shapes[path]) for path in members)
        assert spent / sum(shapes[path].numel() for path in members) == pytest.approx(share, abs=0.06)
