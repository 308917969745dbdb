from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from eckart.blocks.block_arguments import BlockArguments
from eckart.blocks.families import families

EXPERTS, WIDTH = 3, 4


class Expert(nn.Module):
    """An expert of three linears."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(WIDTH, 6), nn.Linear(WIDTH, 6)
        self.down = nn.Linear(6, WIDTH)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.down(self.gate(hidden).sigmoid() * self.up(hidden))
        return found


class Mixture(nn.Module):
    """Experts of which each is handed some of the tokens, changed or not."""

    def __init__(self, change: Callable[[torch.Tensor, int], torch.Tensor]) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.inner: Any = nn.Module()
        self.inner.experts = nn.ModuleList(Expert() for _ in range(EXPERTS))
        self.inner.forward = self.mixed
        self.change = change

    def mixed(self, hidden: torch.Tensor) -> torch.Tensor:
        flat, out = hidden.flatten(0, 1), torch.zeros_like(hidden).flatten(0, 1)
        for number, expert in enumerate(self.inner.experts):
            chosen = torch.arange(number, len(flat), EXPERTS + 1)
            out[chosen] = expert(self.change(flat[chosen], number))
        return out.view_as(hidden)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = hidden + self.inner(self.norm(hidden))
        return found


class Ranges(nn.Module):
    """A linear for each range of inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(EXPERTS))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        parts = inputs.chunk(EXPERTS)
        return torch.cat([expert(part) for expert, part in zip(self.experts, parts, strict=True)])


class Both(nn.Module):
    """Two of those, one behind the other."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Ranges(), Ranges()

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        flat = hidden.flatten(0, 1)
        found: torch.Tensor = self.second(self.first(flat[flat[:, 0].argsort()]).relu()).view_as(hidden)
        return found


class Apart(nn.Module):
    """A block around those."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.inner = nn.LayerNorm(WIDTH), Both()

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = hidden + self.inner(self.norm(hidden))
        return found


FIRST = [(f"inner.experts.{n}.gate", f"inner.experts.{n}.up") for n in range(EXPERTS)]
SECOND = [(f"inner.experts.{n}.down",) for n in range(EXPERTS)]


def found(change: Callable[[torch.Tensor, int], torch.Tensor]) -> dict[tuple[str, ...], str]:
    torch.manual_seed(0)
    return families(Mixture(change), BlockArguments(), torch.randn(2, 9, WIDTH), [*FIRST, *SECOND])


def filled(rows: torch.Tensor, number: int) -> torch.Tensor:
    """Put zeros in the place of some rows, as runs of one size are filled up."""
    return rows * (torch.arange(len(rows)) < 3 - number)[:, None]


@pytest.mark.parametrize("change", [lambda rows, number: rows, filled], ids=["as they are", "filled up"])
def test_the_first_linears_of_experts_are_one(change: Callable[[torch.Tensor, int], torch.Tensor]) -> None:
    assert found(change) == dict.fromkeys(FIRST, "inner.experts.*.gate")


def test_what_is_handed_to_experts_alone_is_of_no_family() -> None:
    """A module that holds nothing but the second linears of all experts is handed what they are."""
    torch.manual_seed(0)
    mixture = Apart()
    first = [(f"inner.first.experts.{n}",) for n in range(EXPERTS)]
    second = [(f"inner.second.experts.{n}",) for n in range(EXPERTS)]
    found = families(mixture, BlockArguments(), torch.randn(2, 9, WIDTH), [*first, *second])
    assert found == dict.fromkeys(first, "inner.first.experts.*")


@pytest.mark.parametrize("change", [lambda rows, number: rows * 2, lambda rows, number: rows + number])
def test_what_is_handed_something_else_is_in_none(change: Callable[[torch.Tensor, int], torch.Tensor]) -> None:
    assert not found(change)


def test_linears_that_are_in_no_list_are_in_none() -> None:
    assert families(nn.Linear(4, 4), BlockArguments(), torch.randn(1, 2, 4), []) == {}
