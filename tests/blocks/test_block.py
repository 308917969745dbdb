from __future__ import annotations

import pytest
from torch import nn

from eckart.blocks.block import Block, Group, LinearRef, hooks

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
