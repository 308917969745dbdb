from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from eckart.layers import FusedLinear, LowRankLinear, fuse_modules, fused_layers, unfuse_modules, weight_matrix
from eckart.layers.fused import runs_of
from eckart.layers.rows import RowsLinear


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


def counted(together: Projections) -> list[int]:
    """Return a list that grows by one at each run of the joint layer."""
    runs: list[int] = []
    together.q.joint.register_forward_hook(lambda *_: runs.append(1))
    return runs


def test_one_run_serves_all_parts() -> None:
    _, together = joined()
    runs = counted(together)
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


class Experts(nn.Module):
    """Gated experts of which each is handed its own inputs."""

    def __init__(self, number: int = 3, bias: bool = True) -> None:
        super().__init__()
        self.gates = nn.ModuleList(nn.Linear(5, 4, bias=bias) for _ in range(number))
        self.ups = nn.ModuleList(nn.Linear(5, 4, bias=bias) for _ in range(number))

    def forward(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return [gate(x) * up(x) for gate, up, x in zip(self.gates, self.ups, inputs, strict=True)]


PATHS = [f"{name}.{number}" for number in range(3) for name in ("gates", "ups")]


def experts_joined(bias: bool = True) -> tuple[Experts, Experts]:
    """Return random experts, and the same ones joined, each in a run of its own."""
    torch.manual_seed(0)
    separate = Experts(bias=bias)
    together = copy.deepcopy(separate)
    joint: Any = fuse_modules(together, PATHS, runs=3).joint
    with torch.no_grad():
        joint.weight.copy_(torch.cat([separate.get_parameter(f"{path}.weight") for path in PATHS]))
        if bias:
            joint.bias.copy_(torch.cat([separate.get_parameter(f"{path}.bias") for path in PATHS]))
    return separate, together


@pytest.mark.parametrize("bias", [True, False])
def test_runs_of_experts_compute_what_each_did(bias: bool) -> None:
    separate, together = experts_joined(bias)
    inputs = [torch.randn(number, 5) for number in (2, 1, 4)]
    for expected, found in zip(separate(inputs), together(inputs), strict=True):
        torch.testing.assert_close(found, expected)
    same = torch.randn(2, 5)  # the very same tensor for all: a run does not take the outputs of another one
    for expected, found in zip(separate([same] * 3), together([same] * 3), strict=True):
        torch.testing.assert_close(found, expected)
    assert runs_of(together, "gates.0.joint") == 3
    assert runs_of(joined()[1], "q.joint") == 1
    assert runs_of(nn.ModuleDict({"joint": nn.Linear(2, 2)}), "joint") == 1


def test_a_run_of_an_expert_is_one_product_of_its_own_outputs() -> None:
    _, together = experts_joined()
    seen: list[tuple[tuple[int, ...], slice, tuple[int, ...]]] = []
    leader: Any = together.gates[0]
    leader.joint.register_forward_hook(lambda _, args, out: seen.append((args[0].shape, args[1], out.shape)))
    together([torch.randn(number, 5) for number in (2, 1, 4)])
    assert seen == [((n, 5), slice(8 * e, 8 * e + 8), (n, 8)) for e, n in enumerate((2, 1, 4))]
    assert leader._last is None


def test_gradients_of_experts_are_those_of_each() -> None:
    separate, together = experts_joined()
    inputs = [torch.randn(number, 5) for number in (2, 1, 4)]
    for module in (separate, together):
        torch.cat(module(inputs)).square().sum().backward()
    linears: list[Any] = [separate.get_submodule(path) for path in PATHS]
    expected = torch.cat([linear.weight.grad for linear in linears])
    leader: Any = together.gates[0]
    torch.testing.assert_close(leader.joint.weight.grad, expected)


def test_factors_of_experts_have_one_basis_and_rows_of_the_other_factor() -> None:
    _, together = experts_joined()
    leader: Any = together.gates[0]
    factors = LowRankLinear.empty_like(leader.joint, 3)
    with torch.no_grad():
        for parameter in factors.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    leader.joint = factors
    sizes: list[tuple[int, ...]] = []
    factors.second.register_forward_hook(lambda _, __, out: sizes.append(tuple(out.shape)))
    assert type(factors.second) is RowsLinear
    inputs = [torch.randn(number, 5) for number in (2, 1, 4)]
    found = together(inputs)
    weight, bias = factors.dense_weight().float(), factors.second.bias
    for number, (x, outputs) in enumerate(zip(inputs, found, strict=True)):
        both = (x @ weight.T + bias)[:, 8 * number : 8 * number + 8]
        torch.testing.assert_close(outputs, both[:, :4] * both[:, 4:])
    assert sizes == [(2, 8), (1, 8), (4, 8)]


def test_experts_taken_apart_are_what_they_were() -> None:
    separate, together = experts_joined()
    (paths,) = fused_layers(together).values()
    assert paths == PATHS
    unfuse_modules(together, paths)
    assert all(torch.equal(tensor, together.state_dict()[name]) for name, tensor in separate.state_dict().items())
    assert type(together.gates[0]) is nn.Linear


def test_experts_compile() -> None:
    separate, together = experts_joined()
    inputs = [torch.randn(number, 5) for number in (2, 1, 4)]
    compiled = torch.compile(together, backend="eager", fullgraph=True)
    for expected, found in zip(separate(inputs), compiled(inputs), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("runs", [0, 4, 2])
def test_runs_that_are_not_alike_are_refused(runs: int) -> None:
    module = Projections([nn.Linear(5, size) for size in (6, 4, 2)])
    with pytest.raises(ValueError, match="runs"):
        fuse_modules(module, ["q", "k", "v"], runs)
    with pytest.raises(ValueError, match="Conv1D"):
        fuse_modules(Projections([Conv1D(4, 5) for _ in range(3)]), ["q", "k", "v"], 3)
