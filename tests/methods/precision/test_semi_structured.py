from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from eckart.errors import RecipeError
from eckart.layers import SparseLinear
from eckart.methods.precision import SemiStructured
from eckart.methods.recipes.loader import load_recipe


@given(st.integers(1, 30), st.integers(1, 50))
def test_numbers_and_bytes_are_those_of_the_layer(rows: int, columns: int) -> None:
    layer = SparseLinear(columns, rows, bias=False, device="meta", dtype=torch.bfloat16)
    assert SemiStructured().numbers(rows, columns) == layer.values.numel()
    assert SemiStructured().bytes(rows, columns) == layer.values.nbytes + layer.places.nbytes


def test_half_of_the_numbers_and_two_bits_for_each_place() -> None:
    assert SemiStructured().numbers(3, 16) == 24
    assert SemiStructured().bytes(3, 16) == 48 + 24 * 2 // 8
    assert SemiStructured().bytes(3, 13) == SemiStructured().bytes(3, 16)  # a row is filled up


def test_which_numbers_stay_depends_on_the_inputs() -> None:
    assert SemiStructured().feeds_back
    assert SemiStructured().scheme is None


def test_it_is_the_base_of_a_hybrid_and_no_precision_of_a_recipe() -> None:
    assert load_recipe("eora", ["structure.base=2-of-4"]).structure.matrices(4, 8, 1)[2].precision == SemiStructured()
    with pytest.raises(RecipeError, match="precision"):
        load_recipe("eora", ["precision=2-of-4"])
    with pytest.raises(ValidationError):
        SemiStructured.model_validate({"group": 4})
