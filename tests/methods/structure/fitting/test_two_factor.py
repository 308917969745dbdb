from __future__ import annotations

import math

import pytest
import torch

from eckart.maths.lowrank import solve, truncate
from eckart.maths.whitening import Whitening, whiten
from eckart.methods.structure import TwoFactor


def test_what_is_split_evenly() -> None:
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    whitening = Whitening(root, torch.linalg.inv(root))
    weight = torch.randn(8, 6, generator=generator, dtype=torch.float64)
    solution, tokens = solve(whitening, None, weight), 50
    by_norm = TwoFactor().fitter.truncated(solution, 4, tokens)
    by_value = TwoFactor(split="singular-values").fitter.truncated(solution, 4, tokens)
    torch.testing.assert_close(by_norm[0] @ by_norm[1], by_value[0] @ by_value[1])
    torch.testing.assert_close(by_norm[0].norm(dim=0), by_norm[1].norm(dim=1))
    values = torch.linalg.svdvals(weight @ root)[:4] / math.sqrt(tokens)
    torch.testing.assert_close(by_value[0].norm(dim=0), values.sqrt())
    torch.testing.assert_close((by_value[1] @ root).norm(dim=1) / math.sqrt(tokens), values.sqrt())


@pytest.mark.parametrize("split", [1, 3, 6])
def test_a_second_pair_for_what_the_first_leaves_is_one_pair_of_both_ranks(split: int) -> None:
    """CALR (arXiv 2508.16680): a pair of rank k, and a second one trained on the residual.

    The same numbers as one pair of the summed rank, which is the best that both can be. Here each is the best of its
    rank for what the other leaves, found in turn from any start: that never loses less.
    """
    generator = torch.Generator().manual_seed(0)
    weight, inputs = (torch.randn(*shape, generator=generator).double() for shape in ((12, 10), (10, 40)))
    whitening, rank = whiten(inputs @ inputs.T), 7
    best = torch.matmul(*truncate(solve(whitening, None, weight), rank))
    least = float(((weight - best) @ inputs).square().sum())
    second_pair = torch.zeros_like(weight)
    if split == 3:  # a start that the residual of the best first pair is not
        second_pair = (
            torch.randn(12, 4, generator=generator).double() @ torch.randn(4, 10, generator=generator).double()
        )
    for _ in range(200):
        first_pair = torch.matmul(*truncate(solve(whitening, None, weight - second_pair), split))
        second_pair = torch.matmul(*truncate(solve(whitening, None, weight - first_pair), rank - split))
        lost = float(((weight - first_pair - second_pair) @ inputs).square().sum())
        assert lost >= least * (1 - 1e-9)
        assert torch.linalg.matrix_rank(first_pair + second_pair) <= rank
    if split != 3:  # from the best first pair on, the second one ends where one pair of both ranks is
        assert lost == pytest.approx(least, rel=1e-6)


def test_components_that_no_token_determines_are_split_by_their_norms() -> None:
    root = torch.zeros(5, 1, dtype=torch.float64)
    root[2] = 3
    weight = torch.randn(4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    solution = solve(Whitening(root, root.T / 9), None, weight)
    second, first = TwoFactor(split="singular-values").fitter.truncated(solution, 4, 10)
    assert torch.isfinite(second).all()
    assert torch.isfinite(first).all()
    torch.testing.assert_close(second @ first, weight)
