"""The linears whose outputs choose are found, and no others."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from eckart.blocks.block_arguments import BlockArguments
from eckart.blocks.routers import routers

WIDTH = 8


class Block(nn.Module):
    """A linear that goes on to a product, a narrow one, and what is made of its output."""

    def __init__(self, choose: Callable[[Tensor], Tensor], outputs: int = 4) -> None:
        super().__init__()
        self.k_proj = nn.Linear(WIDTH, 4)
        self.gate = nn.Linear(WIDTH, outputs)
        self.choose = choose

    def forward(self, hidden: Tensor) -> Tensor:
        """Add something to the hidden states that depends on all."""
        keys: Tensor = self.k_proj(hidden)
        scores = (keys @ keys.mT).topk(2).values.sum(-1, keepdim=True)
        chosen: Tensor = self.choose(self.gate(hidden))
        return hidden + scores + chosen.float().mean()


def found(block: Block) -> set[str]:
    """Return the names that are found."""
    return routers(block, BlockArguments(), torch.randn(1, 6, WIDTH))


@pytest.mark.parametrize(
    "choose",
    [
        lambda logits: logits.topk(2).indices,
        lambda logits: torch.topk(logits.softmax(-1), 2).values,
        lambda logits: torch.topk(input=(logits.float().sigmoid() + 1).view(-1, 2, 2).sum(-1), k=1).values,
        lambda logits: logits.softmax(-1, dtype=torch.float64).argmax(-1),
        lambda logits: torch.sort(torch.cat([logits, logits], -1), descending=True)[1],
        lambda logits: logits.flatten(0, 1).exp().multinomial(1),
    ],
)
def test_whatever_is_done_on_the_way(choose: Callable[[Tensor], Tensor]) -> None:
    assert found(Block(choose)) == {"gate"}


@pytest.mark.parametrize(
    "choose",
    [
        lambda logits: logits.sigmoid(),
        lambda logits: (logits @ logits.mT).topk(2).values,  # a product, as in attention over few
        lambda logits: torch.einsum("bie,bje->bij", logits, logits).argmax(-1),
    ],
)
def test_not_what_is_only_used(choose: Callable[[Tensor], Tensor]) -> None:
    assert not found(Block(choose))


def test_not_a_wide_layer_of_which_some_outputs_are_kept() -> None:
    assert not found(Block(lambda hidden: hidden.topk(2).values, outputs=2 * WIDTH))
