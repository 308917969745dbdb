"""A block in training: between uses in memory or in files, and the same either way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from eckart.compression.distil.student import StudentBlock
from eckart.methods.distillation import LogitDistillation

CPU = torch.device("cpu")
CONFIG = LogitDistillation(relative=False)
Make = Callable[[torch.dtype], StudentBlock]


class Net(nn.Module):
    """Two weights that are trained, and numbers that are not."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 5), nn.Linear(5, 3, bias=False)
        self.register_buffer("codes", torch.arange(3, dtype=torch.int8))

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.two(self.one(x).tanh()) + self.get_buffer("codes")
        return outputs


def tensors(dtype: torch.dtype) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {name: t.to(dtype) if t.is_floating_point() else t for name, t in Net().state_dict().items()}


@pytest.fixture(params=["memory", "file"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    file = None if request.param == "memory" else tmp_path / "student"
    return lambda dtype: StudentBlock(Net().to("meta"), tensors(dtype), CONFIG, CPU, file)


def train(block: StudentBlock, steps: int) -> None:
    x = torch.randn(7, 4, generator=torch.Generator().manual_seed(1))
    for _ in range(steps):
        with block.used():
            outputs = functional_call(block.module, block.tensors, (x,))
            outputs.square().mean().backward()
            block.step(1e-2)


def test_steps_are_those_of_the_plain_optimiser(make: Make) -> None:
    """Through leaving and coming back, with the optimiser's state."""
    block, net = make(torch.float32), Net()
    net.load_state_dict(tensors(torch.float32))
    optimiser = torch.optim.AdamW(net.parameters(), 1e-2, betas=CONFIG.betas, weight_decay=CONFIG.weight_decay)
    x = torch.randn(7, 4, generator=torch.Generator().manual_seed(1))
    for _ in range(4):
        optimiser.zero_grad()
        net(x).square().mean().backward()
        nn.utils.clip_grad_norm_(net.parameters(), CONFIG.gradient_norm)
        optimiser.step()
    train(block, 4)
    with block.used():
        assert block.tensors.keys() == net.state_dict().keys()
        for name, expected in net.state_dict().items():
            torch.testing.assert_close(block.tensors[name].detach(), expected, rtol=1e-5, atol=1e-6)
        assert torch.equal(block.tensors["codes"], torch.arange(3, dtype=torch.int8))


def test_weights_are_trained_in_float32_and_given_back_as_they_are_stored(make: Make) -> None:
    block, before = make(torch.bfloat16), tensors(torch.bfloat16)
    train(block, 1)
    with block.used():
        assert all(parameter.dtype == torch.float32 for parameter in block.parameters.values())
        rounded = block.rounded()
        assert rounded.keys() == {"one.weight", "one.bias", "two.weight"}
        assert all(tensor.dtype == torch.bfloat16 for tensor in rounded.values())
        block.snapshot()
    found = block.result()
    assert found.keys() == before.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in rounded.items())
    assert any(not torch.equal(found[name], before[name]) for name in rounded)
    assert torch.equal(found["codes"], before["codes"])


def test_the_state_that_was_remembered_last_is_the_result(make: Make) -> None:
    block = make(torch.float32)
    states = []
    for _ in range(2):
        train(block, 1)
        with block.used():
            block.snapshot()
            states.append(block.rounded())
    train(block, 2)
    found = block.result()
    assert all(torch.equal(found[name], tensor) for name, tensor in states[1].items())
    assert not torch.equal(found["one.weight"], states[0]["one.weight"])


def test_what_lies_in_files_takes_no_memory_between_uses(tmp_path: Path) -> None:
    block = StudentBlock(Net().to("meta"), tensors(torch.float32), CONFIG, CPU, tmp_path / "student")
    train(block, 1)
    assert all(parameter.numel() == 0 for parameter in block.parameters.values())
    assert block.fixed == {}
    assert not any(block.optimiser.state[parameter] for parameter in block.parameters.values())
    with block.used():
        block.snapshot()
    assert len(list(tmp_path.iterdir())) == 2
    assert block.best == {}
    block.result()
    assert list(tmp_path.iterdir()) == []
