"""Which linears share a basis: all that are handed the same tensor, or those that lose less with it, or none."""

from __future__ import annotations

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from tests.conftest import make_model

import eckart
from eckart.layers import fused_layers
from eckart.methods.sharing import AcrossExperts, AnySharing, Separate, Shared, SharedByLoss


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("sharing", ["separate", "shared"])
def test_all_that_are_handed_the_same_tensor_share_or_none(kind: str, sharing: str, tokens: torch.Tensor) -> None:
    model = make_model(kind)
    report = eckart.compress(model, "svd-llm", 0.6, tokens, overrides=[f"sharing={sharing}"])
    paths = [layer.path for layer in report.layers if layer.path.endswith(".joint")]
    shared = {path.removesuffix(".joint") for path in paths}
    # In GPT-2 q, k and v are one linear already.
    leaders = ("self_attn.q_proj", "mlp.gate_proj") if kind == "llama" and sharing == "shared" else ()
    assert {path.split(".", 3)[3] for path in shared} == set(leaders)
    assert len(shared) == 3 * len(leaders)
    assert set(fused_layers(model)) == shared


def test_at_most_one_way_is_taken() -> None:
    for kind in (Separate, Shared, AcrossExperts, SharedByLoss):
        assert kind.fuses_all + kind.fuses_experts + kind.measures == (kind is not Separate)
        assert kind().fuses == (kind.fuses_all or kind.fuses_experts)
        assert TypeAdapter(AnySharing).validate_python({"name": kind().name}) == kind()
    with pytest.raises(ValidationError):
        TypeAdapter(AnySharing).validate_python({"name": "all"})
