from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm
from transformers.pytorch_utils import Conv1D

from eckart.layers import is_linear


class Named(nn.Linear):
    """Is a linear layer of another name."""


class Written(nn.Linear):
    """Computes the same in other words."""

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = inputs @ self.weight.T
        return outputs if self.bias is None else outputs + self.bias


class Scaled(nn.Linear):
    """By a number that an instance has, so that a class cannot be known by one of them."""

    scale = 1.0

    def forward(self, inputs: Tensor) -> Tensor:
        return functional.linear(inputs, self.weight, self.bias) * self.scale


class Router(nn.Linear):
    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        logits = super().forward(inputs)
        return logits.softmax(-1), logits


class Clamped(nn.Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs.clamp(-100, 100))


class Rounded(nn.Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        weight = self.weight + (self.weight.bfloat16().to(self.weight) - self.weight).detach()
        return functional.linear(inputs, weight, self.bias)


class Wide(nn.Linear):
    """Is given more than one argument."""

    def forward(self, inputs: Tensor, offset: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(inputs) + offset


class Transposed(Conv1D):  # type: ignore[misc]
    pass


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", [nn.Linear, Named, Written, Scaled])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_what_computes_a_linear_function_is_one(kind: type[nn.Linear], device: str, *, bias: bool) -> None:
    with torch.device(device):
        assert is_linear(kind(3, 4, bias=bias).bfloat16())
        assert is_linear(Conv1D(4, 3))
        assert is_linear(Transposed(4, 3))


@pytest.mark.parametrize("kind", [Router, Clamped, Rounded, Wide])
def test_what_computes_something_else_is_none(kind: type[nn.Linear]) -> None:
    assert not is_linear(kind(3, 4))


def test_an_instance_is_looked_at_and_not_its_class() -> None:
    plain, doubled = Scaled(3, 4), Scaled(3, 4)
    doubled.scale = 2.0
    assert is_linear(plain)
    assert not is_linear(doubled)


def test_looking_runs_no_hook_and_draws_no_number() -> None:
    layer, arguments = Written(3, 4), []
    layer.register_forward_pre_hook(lambda module, args: arguments.append(module))
    state = torch.get_rng_state()
    assert is_linear(layer)
    assert not arguments
    assert torch.equal(torch.get_rng_state(), state)


def test_what_holds_no_weight_of_its_own_is_none() -> None:
    assert not is_linear(weight_norm(nn.Linear(3, 4)))
    assert not is_linear(nn.Embedding(2, 2))
    codes = nn.Linear(3, 4)
    codes.weight = nn.Parameter(torch.zeros(4, 3, dtype=torch.int8), requires_grad=False)
    assert not is_linear(codes)
