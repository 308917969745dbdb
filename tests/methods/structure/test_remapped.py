from __future__ import annotations

import pytest

from eckart.errors import RecipeError
from eckart.methods.layout import Layout
from eckart.methods.precision import Bits4, Bits8
from eckart.methods.structure import Matrix, Remapped, TwoFactor


def test_matrices() -> None:
    eight = Bits8()
    assert Remapped().matrices(30, 20, 3) == [Matrix(3, 20, eight), Matrix(20, 3, eight), Matrix(10, 3)]
    assert Remapped().matrices(20, 30, 3) == [Matrix(3, 20, eight), Matrix(20, 3, eight), Matrix(3, 10)]
    assert Remapped().matrices(20, 20, 3) == [Matrix(3, 20, eight), Matrix(20, 3, eight)]
    assert Remapped().highest_rank(30, 20) == 20


@pytest.mark.parametrize("shape", [(4096, 4096), (11008, 4096), (4096, 11008)])
def test_the_rank_is_the_share_of_all_components(shape: tuple[int, int]) -> None:
    """Dobi-SVD: ``r max(m, n) / (m n)`` of the dense bytes; the scales take less than two inputs of 4096."""
    for share in (0.8, 0.4):
        rank, plain = (Layout(kind).rank_of_share(*shape, share) for kind in (Remapped(), TwoFactor()))
        assert rank is not None
        assert plain is not None
        assert share * 4096 - 3 < rank <= share * 4096
        assert rank > 1.35 * plain
    # Almost all components fit into what a dense weight takes.
    assert (Layout(Remapped()).largest_rank(*shape, 2 * shape[0] * shape[1] - 1) or 0) > 4092


@pytest.mark.parametrize("precision", [Bits8(), Bits4()])
def test_another_precision_is_refused(precision: Bits8 | Bits4) -> None:
    with pytest.raises(RecipeError, match="says itself in how many bits its numbers are"):
        Layout(Remapped(), precision)
