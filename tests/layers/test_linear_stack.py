"""A parameter becomes linear layers and comes back."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from eckart.layers.linear_stack import (
    LinearStack,
    StackLayout,
    contract_parameter,
    expand_parameter,
    linear_stacks,
    owner_of,
    part_of,
)


class Experts(nn.Module):
    """A parameter of many matrices and one of few."""

    def __init__(self, *shape: int, device: str = "cpu") -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(*shape, device=device))
        self.scale = nn.Parameter(torch.ones(3, device=device))

    def forward(self, inputs: Tensor) -> Tensor:
        """Run the second matrix."""
        return F.linear(inputs, self.weight[1])


def filled(module: Experts, layout: StackLayout) -> LinearStack:
    """Expand a module's parameter and give the layers its numbers."""
    whole = module.weight.detach().clone()
    stack = expand_parameter(module, "weight", layout)
    for number, layer in enumerate(stack.layers):
        layer.get_parameter("weight").data = part_of(whole, layout, number).clone()
    return stack


@pytest.mark.parametrize(
    ("shape", "layout", "sizes"),
    [
        ((4, 5, 3), StackLayout(4, transposed=False), (5, 3)),
        ((4, 5, 3), StackLayout(4, transposed=True), (3, 5)),
        ((20, 3), StackLayout(4, transposed=False), (5, 3)),
        ((20, 3), StackLayout(4, transposed=True), (3, 5)),
    ],
)
def test_there_and_back(shape: tuple[int, ...], layout: StackLayout, sizes: tuple[int, int]) -> None:
    module = Experts(*shape)
    whole = module.weight.detach().clone()
    stack = filled(module, layout)
    assert linear_stacks(module) == {"weight": stack}
    assert [tuple(layer.get_parameter("weight").shape) for layer in stack.layers] == [sizes] * 4
    assert sorted(module.state_dict()) == ["scale", *(f"weight.{n}.weight" for n in range(4))]
    assert torch.equal(contract_parameter(module, "weight"), whole)
    assert sorted(dict(module.named_parameters())) == ["scale", "weight"]


def test_the_module_runs_as_before_and_its_copy_too() -> None:
    module = Experts(4, 5, 3)
    inputs = torch.randn(2, 3)
    expected = module(inputs)
    filled(module, StackLayout(4, transposed=False))
    assert torch.equal(module(inputs), expected)
    twin = copy.deepcopy(module)
    with torch.no_grad():
        twin.get_parameter("weight.1.weight").zero_()
    assert torch.equal(module(inputs), expected)
    assert not twin(inputs).any()


def test_a_flat_parameter_is_viewed_first() -> None:
    module, inputs = Experts(20, 3), torch.randn(2, 3)
    whole = module.weight.detach().clone().view(4, 5, 3)
    stack: Any = filled(module, StackLayout(4, transposed=False))
    for shape in ((-1, 5, 3), (4, 5, 3)):
        assert torch.equal(F.linear(inputs, stack.view(shape)[2]), F.linear(inputs, whole[2]))
        assert torch.equal(F.linear(inputs, stack.view(*shape)[2]), F.linear(inputs, whole[2]))
    with pytest.raises(TypeError, match="cannot be viewed"):
        stack.view(5, 4, 3)
    with pytest.raises(TypeError, match="must be viewed"):
        stack[0]


def test_without_numbers() -> None:
    module = Experts(4, 5, 3, device="meta")
    stack = expand_parameter(module, "weight", StackLayout(4, transposed=False))
    assert all(parameter.is_meta for parameter in stack.parameters())
    assert contract_parameter(module, "weight").shape == (4, 5, 3)


@pytest.mark.parametrize(("leaf", "number"), [("weight", 3), ("weight", 0), ("weight", 8), ("scale", 1), ("absent", 4)])
def test_what_holds_no_such_matrices_is_an_error(leaf: str, number: int) -> None:
    module = Experts(4, 5, 3)
    with pytest.raises(ValueError, match=leaf):
        expand_parameter(module, leaf, StackLayout(number, transposed=False))
    assert list(dict(module.named_parameters())) == ["weight", "scale"]


def test_who_would_give_it_random_numbers_leaves_it_alone() -> None:
    assert LinearStack._is_hf_initialized
    with pytest.raises(AttributeError):
        LinearStack((1, 2, 3), StackLayout(1, transposed=False), [nn.Linear(3, 2)]).absent  # noqa: B018


def test_the_owner_of_a_path() -> None:
    module = Experts(4, 5, 3)
    assert owner_of(nn.Sequential(nn.Sequential(module)), "0.0.weight") == (module, "weight")
    assert owner_of(module, "weight") == (module, "weight")
