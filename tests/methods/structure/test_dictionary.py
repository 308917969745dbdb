from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from eckart.errors import RecipeError
from eckart.methods.layout import Layout
from eckart.methods.precision import Bits8, SemiStructured
from eckart.methods.precision.masked import Masked
from eckart.methods.structure import Dictionary, Matrix, TwoFactor


def test_matrices() -> None:
    assert Dictionary().matrices(30, 20, 8) == [Matrix(8, 20), Matrix(30, 8, Masked(sparsity=2))]
    assert Dictionary(pattern="2-of-4").matrices(30, 20, 8) == [Matrix(8, 20), Matrix(30, 8, SemiStructured())]
    assert Dictionary().highest_rank(30, 20) == 20


def test_bytes_are_those_of_the_numbers_and_of_a_bit_a_place() -> None:
    for k in (1, 7, 8, 33, 64):
        for sparsity in (1.0, 1.7, 2.0, 3.0):
            numbers = max(1, int(k / sparsity + 1e-9))
            expected = 2 * (64 * k + 48 * numbers) + 48 * ((k + 7) // 8)
            assert Layout(Dictionary(sparsity=sparsity)).bytes(48, 64, k) == expected
    for k in (8, 32, 64):  # two of four take the same
        assert Layout(Dictionary(pattern="2-of-4")).bytes(48, 64, k) == Layout(Dictionary()).bytes(48, 64, k)


@pytest.mark.parametrize("structure", [Dictionary(), Dictionary(pattern="2-of-4"), Dictionary(sparsity=1.7)], ids=str)
@pytest.mark.parametrize("shape", [(1, 9), (9, 1), (13, 21), (24, 16)])
def test_bytes_are_those_of_the_layer(structure: Dictionary, shape: tuple[int, int]) -> None:
    layout, costs = Layout(structure), []
    linear = nn.Linear(shape[1], shape[0], bias=False, device="meta", dtype=torch.bfloat16)
    for rank in range(1, layout.highest_rank(*shape) + 1):
        layer = layout.empty_like(linear, rank)
        costs.append(layout.bytes(*shape, rank))
        assert costs[-1] == sum(tensor.nbytes for tensor in layer.state_dict().values())
    assert costs == sorted(costs)


def test_the_number_of_atoms_follows_from_the_bytes() -> None:
    """4096 x 4096 at 0.8: 2097 atoms with the mask where ROCKET counts 2184 without; two factors have rank 1638."""
    atoms = Layout(Dictionary()).rank_of_share(4096, 4096, 0.8)
    assert atoms in (2096, 2097)
    assert Layout(TwoFactor()).rank_of_share(4096, 4096, 0.8) == 1638
    assert int(0.8 * 4096 * 4096 / (4096 + 4096 / 2)) == 2184


@pytest.mark.parametrize(
    "field",
    [
        {"sparsity": 0.9},
        {"pattern": "2-of-4", "sparsity": 3},
        {"pattern": "1-of-4"},
        {"method": "omp"},
        {"spare": 1.5},
        {"rounds": -1},
        {"refits": -1},
    ],
)
def test_fields_that_cannot_be(field: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Dictionary.model_validate(field)


def test_another_precision_is_refused() -> None:
    with pytest.raises(RecipeError, match="'dictionary' says itself in how many bits its numbers are"):
        Layout(Dictionary(), Bits8())
