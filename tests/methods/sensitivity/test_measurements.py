from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eckart.methods.sensitivity.layer_statistics import LayerStatistics
from eckart.methods.sensitivity.measurements import Measurements


def test_a_linear_is_found_by_its_path() -> None:
    linears = tuple(LayerStatistics(path, (2, 3), 0, path) for path in "ab")
    assert Measurements(linears).statistics("b") is linears[1]
    with pytest.raises(StopIteration):
        Measurements(linears).statistics("c")


@given(st.integers(0, 10**6), st.integers(1, 7), st.integers(1, 7), st.integers(1, 40))
def test_singular_values_are_those_of_the_outputs_of_all_tokens(seed: int, m: int, n: int, tokens: int) -> None:
    """Energies are kept a token, as they are compared with one another."""
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(m, n, generator=generator, dtype=torch.float64)
    outputs = outputs @ torch.randn(n, tokens, generator=generator, dtype=torch.float64)
    left, values, _ = torch.linalg.svd(outputs, full_matrices=False)
    energy = (left.T @ outputs).square().sum(dim=1) / tokens
    linear = LayerStatistics("x", (m, n), 0, "x", energy=energy, tokens=tokens)
    basis, dual, found = Measurements((linear,), solutions={"x": (left, left)}).components("x")
    assert basis is dual is left
    torch.testing.assert_close(found, values, atol=1e-6, rtol=1e-6)
