from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from eckart.layers import FusedLinear, fuse_modules, fused_layers, unfuse_modules, weight_matrix


class Projections(nn.Module):
    """Three linears that are handed the same tensor."""

    q: Any
    k: Any
    v: Any

    def __init__(self, linears: Sequence[nn.Module]) -> None:
        super().__init__()
        self.q, self.k, self.v = linears

    def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.q(inputs), self.k(inputs), self.v(inputs)


def joined(kind: type[nn.Module] = nn.Linear, bias: bool = True) -> tuple[Projections, Projections]:
    """Return three random linears, and the same ones joined."""
    torch.manual_seed(0)
    sizes = (6, 4, 2)
    linears: list[Any] = [Conv1D(size, 5) if kind is Conv1D else nn.Linear(5, size, bias=bias) for size in sizes]
    separate = Projections(linears)
    together = copy.deepcopy(separate)
    joint: Any = fuse_modules(together, ["q", "k", "v"]).joint
    with torch.no_grad():
        weight_matrix(joint).copy_(torch.cat([weight_matrix(linear) for linear in linears]))
        if bias:
            joint.bias.copy_(torch.cat([linear.bias for linear in linears]))
    return separate, together


@pytest.mark.parametrize(("kind", "bias"), [(nn.Linear, True), (nn.Linear, False), (Conv1D, True)])
def test_computes_what_the_linears_did(kind: type[nn.Module], bias: bool) -> None:
    separate, together = joined(kind, bias)
    inputs = torch.randn(2, 3, 5)
    for expected, found in zip(separate(inputs), together(inputs), strict=True):
        torch.testing.assert_close(found, expected)
    for one, part in zip((separate.q, separate.k, separate.v), (together.q, together.k, together.v), strict=True):
        assert (part.bias is None) is (one.bias is None)
        if one.bias is not None:
            torch.testing.assert_close(part.bias, one.bias, rtol=0, atol=0)
    assert sum(p.numel() for p in together.parameters()) == sum(p.numel() for p in separate.parameters())


def runs_of(together: Projections) -> list[int]:
    """Return a list that grows by one at each run of the joint layer."""
    runs: list[int] = []
    together.q.joint.register_forward_hook(lambda *_: runs.append(1))
    return runs


def test_one_run_serves_all_parts() -> None:
    _, together = joined()
    runs = runs_of(together)
    together(torch.randn(3, 5))
    assert len(runs) == 1
    assert together.q._last is None  # nothing is held when all have taken theirs


def test_a_part_that_is_handed_another_tensor_computes_its_own() -> None:
    separate, together = joined()
    first, second = torch.randn(3, 5), torch.randn(3, 5)
    together.q(first)
    torch.testing.assert_close(together.v(second), separate.v(second))
    torch.testing.assert_close(together.k(first), separate.k(first))
    together.q(first)
    first.mul_(2)  # in place: the leader's next run must not take it for the tensor of before
    torch.testing.assert_close(together.q(first), separate.q(first))


def test_gradients_are_those_of_the_linears() -> None:
    separate, together = joined()
    inputs = torch.randn(3, 5)
    for module in (separate, together):
        sum(outputs.square().sum() for outputs in module(inputs)).backward()
    expected = torch.cat([linear.weight.grad for linear in (separate.q, separate.k, separate.v)])
    torch.testing.assert_close(together.q.joint.weight.grad, expected)


def test_a_copy_has_parts_of_its_own_and_can_be_made_between_two_parts() -> None:
    separate, together = joined()
    inputs = torch.randn(3, 5)
    together.q(inputs)
    twin = copy.deepcopy(together)
    with torch.no_grad():
        together.q.joint.weight.zero_()
    for expected, found in zip(separate(inputs), twin(inputs), strict=True):
        torch.testing.assert_close(found, expected)


def test_compiles_in_one_piece() -> None:
    separate, together = joined()
    inputs = torch.randn(3, 5)
    compiled = torch.compile(together, backend="eager", fullgraph=True)
    for expected, found in zip(separate(inputs), compiled(inputs), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", [nn.Linear, Conv1D])
def test_taken_apart_the_linears_are_what_they_were(kind: type[nn.Module]) -> None:
    separate, together = joined(kind)
    assert fused_layers(together) == {"q": ["q", "k", "v"]}
    unfuse_modules(together, ["q", "k", "v"])
    assert fused_layers(together) == {}
    for name, tensor in separate.state_dict().items():
        assert torch.equal(together.state_dict()[name], tensor)
    assert type(together.k) is kind


@pytest.mark.parametrize(
    "other", [nn.Linear(5, 4, bias=False), nn.Linear(5, 4, dtype=torch.float64), Conv1D(4, 5)], ids=str
)
def test_layers_of_different_kinds_are_refused(other: nn.Module) -> None:
    module = Projections([nn.Linear(5, 6), other, nn.Linear(5, 2)])
    with pytest.raises(ValueError, match="different kinds"):
        fuse_modules(module, ["q", "k", "v"])
    assert not any(isinstance(child, FusedLinear) for child in module.modules())


def test_layers_of_a_subclass_stay_apart() -> None:
    class Named(nn.Linear):
        pass

    with pytest.raises(ValueError, match="cannot be fused"):
        fuse_modules(Projections([Named(5, size) for size in (6, 4, 2)]), ["q", "k", "v"])
