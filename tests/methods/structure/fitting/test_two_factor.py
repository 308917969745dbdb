from __future__ import annotations

import math

import torch

from eckart.maths.lowrank import solve
from eckart.maths.whitening import Whitening
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


def test_components_that_no_token_determines_are_split_by_their_norms() -> None:
    root = torch.zeros(5, 1, dtype=torch.float64)
    root[2] = 3
    weight = torch.randn(4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    solution = solve(Whitening(root, root.T / 9), None, weight)
    second, first = TwoFactor(split="singular-values").fitter.truncated(solution, 4, 10)
    assert torch.isfinite(second).all()
    assert torch.isfinite(first).all()
    torch.testing.assert_close(second @ first, weight)
