from __future__ import annotations

import pytest
from pydantic import ValidationError

from eckart.methods.layout import Layout
from eckart.methods.precision import Bits4, Bits8
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


def test_a_base_by_its_name_alone_and_one_that_cannot_be() -> None:
    assert Hybrid.model_validate({"base": "8-bit"}).base == Bits8()
    for wrong in ({"base": "16-bit"}, {"base": {"name": "4-bit", "group": 0}}, {"alternations": -1}):
        with pytest.raises(ValidationError):
            Hybrid.model_validate(wrong)
