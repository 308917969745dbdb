"""Which linears an engine's layer is made of, by config.json."""

from __future__ import annotations

from typing import Any

import pytest

from eckart.checkpoint.config import EckartConfig
from eckart.errors import ServingError
from eckart.methods.layout import Layout
from eckart.methods.precision import Bits2
from eckart.methods.structure import Hybrid
from eckart.serve.plan import PartPlan, ServedConfig

FUSED = {"qkv": ["q", "k", "v"], "gate_up": ["gate", "up"], "query_key_value": ["query_key_value"]}


def served(ranks: dict[str, int | None], **fields: Any) -> ServedConfig:
    return ServedConfig(EckartConfig(ranks, **fields))


def test_each_linear_of_a_fused_layer_has_its_own_rank_or_none() -> None:
    config = served({"m.0.q": 7, "m.0.v": 3, "m.0.o": 5})
    assert config.plan("m.0.qkv", FUSED, 3) == [
        PartPlan("m.0.q", "", 0, (0,), 7, True),
        PartPlan("m.0.k", "", 1, (1,), None, False),
        PartPlan("m.0.v", "", 2, (2,), 3, True),
    ]
    assert config.plan("m.0.o", FUSED, 1) == [PartPlan("m.0.o", "", None, (0,), 5, True)]
    config.check_all_asked()


def test_a_layer_without_compressed_linears_is_the_engines_own() -> None:
    config = served({"m.0.q": 7})
    assert config.plan("m.1.qkv", FUSED, 3) is None
    assert config.plan("lm_head", FUSED, 1) is None


def test_a_whole_weight_of_few_bits_is_replaced() -> None:
    assert served({"m.0.o": None}).plan("m.0.o", FUSED, 1) == [PartPlan("m.0.o", "", None, (0,), None, True)]


def test_a_base_of_its_own_goes_with_its_layer_under_the_engines_names() -> None:
    config = served({"m.0.q": 7, "m.0.k": None})
    own = Layout(Hybrid(base=Bits2()))
    config.layouts = {"m.0.q": own}
    config.rename(lambda path: path.replace("m.", "engine."))
    parts = config.plan("engine.0.qkv", FUSED, 3)
    assert parts is not None
    assert [part.layout for part in parts] == [own, None, None]


def test_a_shared_basis() -> None:
    config = served({"m.0.q.joint": 9}, joint=[["m.0.q", "m.0.v"]])
    assert config.plan("m.0.qkv", FUSED, 3) == [
        PartPlan("m.0.q.joint", "joint.", 0, (0, 2), 9, True),
        PartPlan("m.0.k", "", 1, (1,), None, False),
    ]
    config.check_all_asked()


def test_a_shared_basis_that_was_left_whole() -> None:
    config = served({}, joint=[["m.0.gate", "m.0.up"]])
    assert config.plan("m.0.gate_up", FUSED, 2) == [PartPlan("m.0.gate.joint", "joint.", 0, (0, 1), None, False)]


def test_a_linear_that_the_checkpoint_holds_fused() -> None:
    config = served({"m.0.query_key_value": 9})
    assert config.plan("m.0.query_key_value", FUSED, 3) == [
        PartPlan("m.0.query_key_value", "", None, (0, 1, 2), 9, True)
    ]


def test_a_basis_shared_over_layers_of_the_engine_is_refused() -> None:
    config = served({"m.0.q.joint": 9}, joint=[["m.0.q", "m.0.o"]])
    with pytest.raises(ServingError, match=r"m\.0\.q shares a basis with m\.0\.o, and this engine runs them as"):
        config.plan("m.0.qkv", FUSED, 3)


def test_pieces_that_are_not_known_one_by_one_are_refused() -> None:
    with pytest.raises(ServingError, match=r"m\.0\.gate_up of this engine has 4 pieces for the 2 linears"):
        served({"m.0.up": 9}).plan("m.0.gate_up", FUSED, 4)


@pytest.mark.parametrize(
    "fields",
    [
        {"expanded": {"m.0.experts.up": {"number": 4, "transposed": False}}},
        {"joint": [["m.0.experts.0.up", "m.0.experts.1.up"]], "joint_runs": {"m.0.experts.0.up": 2}},
    ],
)
def test_experts_are_refused_by_name(fields: dict[str, Any]) -> None:
    with pytest.raises(ServingError, match=r"m\.0\.experts.* holds experts of a mixture that were compressed"):
        served({}, **fields)


def test_a_linear_that_the_engine_does_not_have_is_named() -> None:
    config = served({"m.0.q": 7, "m.1.q": 7, "m.1.x": 7})
    config.plan("m.0.qkv", FUSED, 3)
    with pytest.raises(ServingError, match=r"no linear layer for m\.1\.q and 1 more, which config\.json says"):
        config.check_all_asked()
    config.check_all_asked(all_blocks=False)  # the other block is in another process
    config.plan("m.1.qkv", FUSED, 3)
    with pytest.raises(ServingError, match=r"no linear layer for m\.1\.x, which"):
        config.check_all_asked(all_blocks=False)


def test_names_of_the_engine() -> None:
    config = served({"m.0.q.joint": 9, "m.0.o": 2}, joint=[["m.0.q", "m.0.v"]], ordered=["m.0.o"])
    config.rename(lambda path: path.replace("m.", "text.m.", 1))
    assert config.ranks == {"text.m.0.q.joint": 9, "text.m.0.o": 2}
    assert config.groups == [("text.m.0.q", "text.m.0.v")]
    assert config.ordered == {"text.m.0.o"}
    config.rename(lambda path: None)
    assert config.ordered == {"text.m.0.o"}
