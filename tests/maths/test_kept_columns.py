from __future__ import annotations

import pytest
import torch
from torch import Tensor

from eckart.maths.kept_columns import columns_in_exchange, golden_section, others_of, rank_columns, root_of_others, tail


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_exchange_as_published() -> None:
    """1000 x 1000, 100 of 400 ranks: 286 columns, and 800 200 numbers in place of 800 000."""
    columns = columns_in_exchange(1000, 1000, 400, 100)
    assert columns == 286
    assert 300 * (2000 - columns) + columns * 1000 == 800_200
    for given_up in range(1, 400, 37):
        columns = columns_in_exchange(700, 1000, 400, given_up)
        left = 400 - given_up
        assert abs(left * (1700 - columns) + columns * 700 - 400 * 1700) <= (700 - left) / 2


def test_columns_are_ranked_by_what_their_loss_costs() -> None:
    missing = torch.tensor([[1.0, 2.0, 3.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
    assert rank_columns(missing, torch.tensor([1.0, 1.0, 0.1]).double()).tolist() == [1, 0, 2]  # 2, 4 and 0.9
    assert others_of(torch.tensor([0, 2]), 4).tolist() == [1, 3]
    assert others_of(torch.tensor([], dtype=torch.int64), 3).tolist() == [0, 1, 2]


def test_what_weighs_the_others_is_the_schur_complement() -> None:
    root, columns = normal(7, 7), torch.tensor([1, 4])
    moment, others = root @ root.T, torch.tensor([0, 2, 3, 5, 6])
    for moved in (True, False):
        found = root_of_others(root, columns, moved=moved)
        expected = moment[others][:, others]
        if moved:
            cross = moment[others][:, columns]
            expected = expected - cross @ torch.linalg.inv(moment[columns][:, columns]) @ cross.T
        torch.testing.assert_close(found @ found.T, expected)


def test_columns_that_no_token_reached_make_up_for_nothing() -> None:
    root = normal(6, 3)
    root[2] = 0
    root[5] = 2 * root[1]
    found = root_of_others(root, torch.tensor([1, 2, 5]), moved=True)
    direction = root[1] / root[1].norm()
    left = root[[0, 3, 4]]
    torch.testing.assert_close(found, left - torch.outer(left @ direction, direction))
    assert torch.equal(root_of_others(root, torch.tensor([], dtype=torch.int64), moved=True), root)


@pytest.mark.parametrize("shape", [(4, 9), (9, 4)])
def test_the_tail_is_that_of_the_singular_values(shape: tuple[int, int]) -> None:
    matrix = normal(*shape)
    values = torch.linalg.svdvals(matrix)
    for rank in range(5):
        assert tail(matrix, rank) == pytest.approx(float(values[rank:].square().sum()), abs=1e-9)


@pytest.mark.parametrize("best", [0, 1, 7, 30, 99, 100])
def test_a_golden_section_finds_the_least_of_a_valley(best: int) -> None:
    asked: list[int] = []

    def loss(number: int) -> float:
        asked.append(number)
        return 1 + abs(number - best) / 100

    found = golden_section(loss, 100, gain=0.0)
    # Near 0 both early looks are on the other side of the valley. Places are rounded to numbers.
    assert abs(found - best) <= 1
    assert len(asked) == len(set(asked)) < 20


def test_what_is_hardly_better_is_not_taken() -> None:
    def loss(number: int) -> float:
        return 1 - 0.02 * (number == 4) - 0.005 * (number in (1, 2, 3))

    assert golden_section(loss, 10, gain=0.01) == 4
    assert golden_section(loss, 10, gain=0.03) == 0
    assert golden_section(loss, 0, gain=0.0) == 0
