from __future__ import annotations

import torch
from torch import Tensor, nn

from eckart.blocks.block_arguments import BlockArguments
from eckart.blocks.substitution import Run, is_close, run_with


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 4)

    def forward(self, hidden: Tensor) -> Tensor:
        result: Tensor = self.second(self.first(hidden))
        return result


def test_outputs_are_changed_and_inputs_looked_at() -> None:
    torch.manual_seed(0)
    block, hidden = Two(), torch.randn(1, 3, 4)
    run = Run(block, BlockArguments(), hidden)
    plain = run_with(run, {}, "second")
    assert plain is not None
    assert torch.equal(plain.behind, block(hidden))
    assert torch.equal(plain.seen, block.first(hidden))
    ones = run_with(run, {"first": torch.ones_like}, "second")
    assert ones is not None
    assert torch.equal(ones.seen, torch.ones(1, 3, 6))
    put_back = run_with(run, {"first": torch.ones_like}, "second", lambda x: plain.seen)
    assert put_back is not None
    assert torch.equal(put_back.behind, plain.behind)
    assert torch.equal(block(hidden), plain.behind)  # no hook is left


def test_what_cannot_be_run_is_no_error() -> None:
    run = Run(Two(), BlockArguments(), torch.randn(1, 3, 4))
    assert run_with(run, {"first": lambda x: x[..., :2]}, "second") is None


def test_close_is_up_to_rounding() -> None:
    x = torch.randn(4, 5)
    assert is_close(x + 1e-7, x)
    assert not is_close(x + 1e-2, x)
    assert not is_close(x[:2], x)
    assert not is_close(x * float("nan"), x)
