from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from eckart.maths.lowrank import Whitening
from eckart.methods.layout import Layout
from eckart.methods.precision import Bits4, Bits8, SemiStructured
from eckart.methods.structure import Hybrid, Matrix


def test_bytes_are_those_of_the_base_and_of_the_factors() -> None:
    assert Hybrid().matrices(256, 512, 3)[2] == Matrix(256, 512, Bits4(group=128))
    layout = Layout(Hybrid(base=Bits4(group=128)))
    base = 256 * (512 // 2 + 2 * 4)
    assert layout.bytes(256, 512, 3) == base + 2 * 3 * (256 + 512)
    assert Layout(Hybrid(), Bits8()).bytes(256, 512, 3) == base + 3 * 512 + 2 * 3 + 256 * 3 + 2 * 256
    assert layout.bytes(256, 512, None) == 2 * 256 * 512
    assert Hybrid().highest_rank(256, 512) == 256
    # 0.3 of the 16-bit bytes: what the base leaves of them goes to the rank.
    assert layout.rank_of_share(256, 512, 0.3) == (int(0.3 * 2 * 256 * 512) - base) // (2 * (256 + 512))


def test_the_remainder_of_a_pruned_base_is_what_is_left_out() -> None:
    weight = torch.tensor([[1.0, -2.0, 3.0, -4.0, 5.0]], dtype=torch.float64)
    base = Hybrid(base=SemiStructured())
    assert base.fitter.remainder(weight, Whitening.identity(5)).tolist() == [[1, -2, 0, 0, 0]]
    inputs = torch.diag(torch.tensor([100.0, 1.0, 1.0, 1.0, 1.0], dtype=torch.float64))
    assert base.fitter.remainder(weight, Whitening(inputs, inputs.inverse())).tolist() == [[0, -2, 3, 0, 0]]
    assert Layout(base).bytes(256, 512, 3) == 256 * (512 + 512 // 8) + 2 * 3 * (256 + 512)


@pytest.mark.parametrize("base", [Bits4(), Bits8(), Bits8(group=5)])
def test_the_remainder_is_what_rounding_loses(base: Bits4 | Bits8) -> None:
    weight = torch.randn(12, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    remainder = Hybrid(base=base).fitter.remainder(weight, Whitening.identity(20))
    assert 0 < remainder.norm() < 0.2 * weight.norm()
    assert not Hybrid(base=base).fitter.remainder(torch.zeros_like(weight), Whitening.identity(20)).any()


def test_a_base_by_its_name_alone_and_one_that_cannot_be() -> None:
    assert Hybrid.model_validate({"base": "8-bit"}).base == Bits8()
    for wrong in ({"base": "16-bit"}, {"base": {"name": "4-bit", "group": 0}}, {"alternations": -1}):
        with pytest.raises(ValidationError):
            Hybrid.model_validate(wrong)
