from __future__ import annotations

import pytest
import torch
from tests.cache.helpers import factored
from tests.conftest import make_model
from torch import nn

import eckart
from eckart.cache.sources import linears_below, sources_below


@pytest.mark.parametrize("structure", ["two-factor", "pivoted", "remapped"])
def test_outputs_follow_from_latents(structure: str) -> None:
    attention = factored("llama", 0.35, f"structure={structure}").model.layers[0].self_attn
    sources = {path: source for source in sources_below(attention) for path in source.outputs}
    assert list(sources) == ["q_proj", "k_proj", "v_proj", "o_proj"]
    inputs = torch.randn(2, 5, 32)
    for path, source in sources.items():
        layer = attention.get_submodule(path)
        assert source.rank == layer.rank
        torch.testing.assert_close(source.decode(layer.encode(inputs), [path])[path], layer(inputs))


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2"])
def test_outputs_of_layers_that_are_not_factored(kind: str) -> None:
    model = make_model(kind)
    attention = next(module for module in model.modules() if hasattr(module, "layer_idx") and hasattr(module, "config"))
    assert sources_below(attention) == []
    sources = sources_below(attention, unfactored=True)
    assert [next(iter(source.outputs)) for source in sources] == list(linears_below(attention))
    for source in sources:
        (path,) = source.outputs
        heard: list[torch.Tensor] = []
        layer = attention.get_submodule(path)
        source.listen(heard.append)
        expected = layer(torch.randn(2, 5, 32))
        source.silence()
        layer(torch.randn(2, 5, 32))
        assert len(heard) == 1
        assert heard[0].shape == (2, 5, source.rank)
        torch.testing.assert_close(source.decode(heard[0], [path])[path], expected)
        assert not layer._forward_hooks


def test_few_bits_beside_factors_are_heard_by_their_outputs() -> None:
    model = make_model("llama")
    eckart.compress(model, "svd", 0.5, overrides=["structure=hybrid", "structure.base.group=16"])
    attention = model.model.layers[0].self_attn
    assert [type(source).__name__ for source in sources_below(attention, unfactored=True)] == ["OutputSource"] * 4
    mixed = make_model("llama")
    eckart.compress(mixed, "svd", 0.35, only=["*.v_proj"])
    found = sources_below(mixed.model.layers[0].self_attn, unfactored=True)
    assert {next(iter(source.outputs)): type(source).__name__ for source in found} == {
        "v_proj": "FactoredSource",
        "q_proj": "OutputSource",
        "k_proj": "OutputSource",
        "o_proj": "OutputSource",
    }


def test_layers_that_share_latents_are_one_source() -> None:
    attention = factored("llama", 0.35, "sharing=shared").model.layers[0].self_attn
    source = next(source for source in sources_below(attention) if len(source.outputs) == 3)
    inputs = torch.randn(2, 5, 32)
    expected = {path: attention.get_submodule(path)(inputs) for path in ("q_proj", "k_proj", "v_proj")}
    latents = attention.q_proj.joint.encode(inputs)
    for wanted in (["q_proj", "k_proj", "v_proj"], ["k_proj", "v_proj"], ["v_proj"], ["q_proj", "v_proj"]):
        found = source.decode(latents, wanted)
        assert list(found) == wanted
        for path, outputs in found.items():
            torch.testing.assert_close(outputs, expected[path])


def test_a_weight_beside_the_factors_has_no_latents() -> None:
    model = make_model("llama")
    eckart.compress(model, "svd", 0.5, overrides=["structure=hybrid", "structure.base.group=16"])
    assert sources_below(model.model.layers[0].self_attn) == []


@pytest.mark.parametrize(
    ("kind", "path", "expected"),
    [
        ("llama", "model.layers.0.self_attn", {"q_proj": 32, "k_proj": 16, "v_proj": 16, "o_proj": 32}),
        ("gpt2", "transformer.h.0.attn", {"c_attn": 96, "c_proj": 32}),
    ],
)
def test_widths_of_all_linears(kind: str, path: str, expected: dict[str, int]) -> None:
    assert linears_below(make_model(kind).get_submodule(path)) == expected
    assert linears_below(factored(kind).get_submodule(path)) == expected
    assert linears_below(factored(kind, 0.35, "sharing=shared").get_submodule(path)) == expected


def test_the_module_itself_and_what_is_no_linear_are_left_out() -> None:
    assert linears_below(nn.Linear(2, 3)) == {}
    assert linears_below(nn.Sequential(nn.LayerNorm(2), nn.Linear(2, 3))) == {"1": 3}
