from __future__ import annotations

import pytest
from tests.conftest import make_model

from eckart.blocks.discovery import find_blocks
from eckart.layers import weight_matrix
from eckart.methods.layout import Layout
from eckart.methods.precision import Bits8
from eckart.methods.sensitivity.layer_statistics import LayerStatistics, Needs, shapes_of

# What a human reads off the source: linears that are handed the same tensor, in order of execution.
GROUPS = {
    "llama": (
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        ("self_attn.o_proj",),
        ("mlp.gate_proj", "mlp.up_proj"),
        ("mlp.down_proj",),
    ),
    "gpt2": (("attn.c_attn",), ("attn.c_proj",), ("mlp.c_fc",), ("mlp.c_proj",)),
    "phi3": (("self_attn.qkv_proj",), ("self_attn.o_proj",), ("mlp.gate_up_proj",), ("mlp.down_proj",)),
}
PREFIX = {"llama": "model.layers", "gpt2": "transformer.h", "phi3": "model.layers"}


@pytest.mark.parametrize("kind", GROUPS)
def test_shapes_groups_and_kinds_are_known_without_a_measurement(kind: str) -> None:
    model = make_model(kind)
    found = shapes_of(find_blocks(model))
    expected = [
        (f"{PREFIX[kind]}.{block}.{name}", name, block * len(GROUPS[kind]) + number)
        for block in range(model.config.num_hidden_layers)
        for number, names in enumerate(GROUPS[kind])
        for name in names
    ]
    assert [(linear.path, linear.kind, linear.group) for linear in found] == expected
    for linear in found:
        module = model.get_submodule(linear.path)
        assert linear.shape == tuple(weight_matrix(module).shape)
        assert linear.has_bias == (module.bias is not None)
        assert (linear.energy, linear.curvature, linear.own, linear.tokens) == (None, None, None, 0)


def test_a_bias_that_was_there_is_not_counted() -> None:
    layout = Layout(precision=Bits8(), affine=True)
    with_bias, without = (LayerStatistics("x", (10, 20), 0, "x", has_bias=has) for has in (True, False))
    sizes = [linear.layout(layout).bytes(10, 20, 3) for linear in (with_bias, without)]
    assert sizes[1] - sizes[0] == 20
    assert with_bias.layout(Layout()) == without.layout(Layout()) == Layout()


def test_needs_are_put_together() -> None:
    both = Needs.SPECTRUM | Needs.SIMILARITY
    assert Needs.SPECTRUM in both
    assert Needs.CURVATURE not in both
    assert Needs(0) == Needs.NONE
    assert len({Needs.SPECTRUM, Needs.FIRST_ORDER, Needs.CURVATURE, Needs.SIMILARITY}) == 4
