from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from eckart.blocks.block import Block, Group, LinearRef, attributes_kept, hooks

A, B, C = (LinearRef(name, f"layers.1.{name}", 4, 3) for name in "abc")


def test_linears_are_in_order_of_execution() -> None:
    block = Block("layers.1", nn.Identity(), (Group((A, C), True), Group((B,), True)))
    assert block.linears == [A, C, B]
    assert (A.shape, A.size) == ((4, 3), 12)


@pytest.mark.parametrize(
    ("path", "held"), [("layers.1", True), ("layers.1.a.weight", True), ("layers.10.a", False), ("layers", False)]
)
def test_a_block_holds_what_is_inside_it(path: str, held: bool) -> None:
    assert Block("layers.1", nn.Identity(), ()).holds(path) == held
    assert Block("", nn.Identity(), ()).holds(path)


def test_hooks_are_taken_off_where_something_fails() -> None:
    module, seen = nn.Identity(), []

    def fail() -> None:
        with hooks() as handles:
            handles.append(module.register_forward_pre_hook(lambda *_: seen.append(1)))
            module(1)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    module(1)
    assert seen == [1]


class Keeps(nn.Module):
    """Keeps what it computed for its next run, and fails."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.last = nn.Linear(2, 2), torch.ones(1, 2)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.last = self.other = self.linear(inputs)
        raise ZeroDivisionError


def test_what_a_module_keeps_for_its_next_run_is_as_it_was() -> None:
    """Also where the run fails: what is kept with the graph of its gradients cannot be copied."""
    module = nn.Sequential(Keeps())
    before = module[0].last
    with pytest.raises(ZeroDivisionError), attributes_kept(module):
        module(torch.ones(1, 2))
    assert module[0].last is before
    assert not hasattr(module[0], "other")
    copy.deepcopy(module)
