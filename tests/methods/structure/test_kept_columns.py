from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from eckart.layers import LowRankLinear
from eckart.methods.layout import Layout
from eckart.methods.precision import Bits8, Bits16
from eckart.methods.structure import KeptColumns, Matrix, TwoFactor


def test_matrices() -> None:
    structure = KeptColumns(columns=5)
    assert structure.matrices(30, 20, 3) == [Matrix(3, 15), Matrix(30, 8)]
    assert KeptColumns().matrices(30, 20, 3) == TwoFactor().matrices(30, 20, 3)
    assert structure.index_bytes(30) == 20
    assert structure.highest_rank(30, 20) == 15
    assert structure.highest_rank(7, 20) == 7
    assert KeptColumns(columns=20).highest_rank(30, 20) == 0


@pytest.mark.parametrize("precision", [Bits16(), Bits8()])
def test_bytes_are_those_of_the_layer_with_its_index(precision: Bits16 | Bits8) -> None:
    layout = Layout(KeptColumns(), precision).with_columns(5)
    linear = nn.Linear(20, 30, bias=False, device="meta", dtype=torch.bfloat16)
    layer = layout.empty_like(linear, 3)
    assert layout.bytes(30, 20, 3) == sum(tensor.nbytes for tensor in layer.state_dict().values())


def test_only_what_keeps_columns_is_asked_for_some() -> None:
    layer = LowRankLinear(4, 4, 1)
    assert TwoFactor().columns_of(layer) is None
    assert Layout().with_columns(None) == Layout()
    with pytest.raises(ValueError, match="'two-factor' keep no columns"):
        Layout().with_columns(3)


@pytest.mark.parametrize("field", [{"columns": -1}, {"gain": -0.1}, {"gain": 1.0}])
def test_fields_that_cannot_be(field: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        KeptColumns.model_validate(field)
