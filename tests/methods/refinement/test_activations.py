from __future__ import annotations

import pytest
import torch
from torch import nn

from eckart.methods.refinement.activations import checkpointed, saved_bytes


def test_saved_bytes_are_those_of_the_inputs_that_gradients_need() -> None:
    linear = nn.Linear(8, 4)
    inputs = torch.randn(10, 8)
    # The gradient of the weight needs the inputs; the weight itself does not count.
    assert saved_bytes(lambda: linear(inputs), list(linear.parameters())) == inputs.nbytes
    # The input is shared by two layers and counted once; the output of the activation is saved too.
    net = nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 2))
    assert saved_bytes(lambda: net(inputs), list(net.parameters())) == inputs.nbytes + 10 * 4 * 4


def test_checkpointing_holds_less_and_gives_the_same_gradients() -> None:
    torch.manual_seed(0)
    block = nn.Sequential(
        nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 8)),
        nn.ReLU(),
        nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 8)),
    )
    inputs = torch.randn(10, 8)
    parameters = list(block.parameters())
    block(inputs).square().sum().backward()
    expected = [parameter.grad.clone() for parameter in parameters if parameter.grad is not None]
    assert len(expected) == len(parameters)
    plain = saved_bytes(lambda: block(inputs), parameters)
    block.zero_grad()
    with checkpointed(block):
        assert saved_bytes(lambda: block(inputs), parameters) < plain / 2
        block(inputs).square().sum().backward()
    for parameter, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    assert "forward" not in vars(block[0])


def test_modules_come_back_after_an_error() -> None:
    block = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(KeyError), checkpointed(block):
        raise KeyError
    assert "forward" not in vars(block[0])
