from __future__ import annotations

import pytest
from tests.conftest import make_model

from eckart.blocks.block import Why
from eckart.blocks.discovery import find_blocks
from eckart.compression.paired import pairs_alone
from eckart.compression.targets import Targets
from eckart.errors import UnsupportedModelError
from eckart.methods.allocation import Budgets
from eckart.methods.pairs import Narrow


def test_what_is_in_no_pair_is_left() -> None:
    targets = Targets(find_blocks(make_model("gpt2"), pairs=True), Budgets(0.5))
    found = pairs_alone(targets, Narrow())
    for block in found.blocks:
        assert {ref.name for ref in block.linears} == {"mlp.c_fc", "mlp.c_proj"}
        assert block.left == {"attn.c_attn": Why.ALONE, "attn.c_proj": Why.ALONE}
    assert not found.left


def test_what_the_choice_leaves_out_is_left_by_the_recipe() -> None:
    targets = Targets(find_blocks(make_model("llama"), pairs=True), Budgets(0.5))
    found = pairs_alone(targets, Narrow(units="none", keys="none"))
    assert {path.rpartition(".")[2] for path in found.paths} == {"v_proj", "o_proj"}
    assert found.left == targets.paths - found.paths
    assert not any(block.left for block in found.blocks)
    with pytest.raises(UnsupportedModelError, match="looked for none"):
        pairs_alone(targets, Narrow(units="none", keys="none", values="none"))
