from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from eckart.blocks.rankings import OtherRankingsError, Rankings


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


RUNS: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    "topk": lambda x: torch.topk(x, 2, dim=0),
    "method": lambda x: x.topk(2),
    "named": lambda x: x.topk(k=2, dim=-1, sorted=False),
    "sort": lambda x: x.sort(dim=1, descending=True),
    "max": lambda x: x.max(dim=1),
    "kthvalue": lambda x: torch.kthvalue(x, 2, 1),
}


@pytest.mark.parametrize("name", RUNS)
def test_another_run_makes_the_same_choices_among_its_own_numbers(name: str) -> None:
    run, first, second = RUNS[name], normal(0, 5, 4), normal(1, 5, 4)
    with Rankings() as seen:
        _, chosen = run(first)
    with Rankings(seen.found) as again:
        values, numbers = run(second)
    assert torch.equal(numbers, chosen)
    assert len(again.found) == 1
    dimension = 0 if name == "topk" else 1
    whole = chosen if chosen.ndim == 2 else chosen[:, None]
    assert torch.equal(values, second.gather(dimension, whole).view_as(values))
    assert not torch.equal(numbers, run(second)[1])


def test_numbers_alone_are_chosen_too_and_whole_numbers_are_left() -> None:
    first, second = normal(0, 5, 4), normal(1, 5, 4)
    with Rankings() as seen:
        best, order = first.argmax(dim=1), torch.argsort(first)
        largest = first.max()
        best.sort()
    assert len(seen.found) == 2
    with Rankings(seen.found):
        assert torch.equal(second.argmax(dim=1), best)
        assert torch.equal(torch.argsort(second), order)
        assert second.max() != largest
        whole = torch.tensor([3, 1, 2])
        assert whole.sort()[0].tolist() == [1, 2, 3]


@pytest.mark.parametrize("run", [lambda x: (x.topk(1), x.topk(1)), lambda x: x.topk(2)])
def test_other_rankings_are_refused(run: Callable[[Tensor], object]) -> None:
    with Rankings() as seen:
        normal(0, 5, 4).topk(1)
    with pytest.raises(OtherRankingsError), Rankings(seen.found):
        run(normal(1, 5, 4))
