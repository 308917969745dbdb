from __future__ import annotations

from typing import Literal

import pytest
from torch import nn

from eckart.layers import KeptInputsLinear, KeptOutputsLinear
from eckart.methods.layout import Layout
from eckart.methods.precision import Bits16
from eckart.methods.structure import STRUCTURES
from eckart.methods.structure.kept import Kept, Width


@pytest.mark.parametrize("side", ["outputs", "inputs"])
@pytest.mark.parametrize("direct", [False, True])
def test_bytes_are_those_of_the_layer(side: Literal["outputs", "inputs"], direct: bool) -> None:
    structure = Kept(side=side, direct=direct)
    layer = structure.empty_like(nn.Linear(24, 40, bias=False), 7, Bits16())
    assert isinstance(layer, KeptOutputsLinear if side == "outputs" else KeptInputsLinear)
    if direct:
        layer.drop_index()
    index = 0 if layer.index is None else layer.index.numel() * layer.index.itemsize
    assert Layout().keeping(side, direct=direct).bytes(40, 24, 7) == 2 * layer.weight.numel() + index
    assert structure.highest_rank(40, 24) == (40 if side == "outputs" else 24)


def test_a_pair_counts_all_of_its_matrices() -> None:
    assert Layout(Width(index=3)).bytes(10, 50, 4) == 2 * (4 * 50 + 4 * 3)
    assert Layout(Width()).largest_rank(10, 50, 2 * 50 * 7 + 1) == 7
    with pytest.raises(TypeError):
        Width().empty_like(nn.Linear(2, 2), 1, Bits16())


def test_no_recipe_names_them() -> None:
    assert not {"kept", "width"} & set(STRUCTURES)
