from __future__ import annotations

import pytest
import torch
from tests.cache.helpers import factored
from torch import nn

from eckart.cache.latent_codes import BITS, RoundedLatents, WholeLatents, check_bits, latent_codes
from eckart.cache.sources import FactoredSource, OutputSource, sources_below
from eckart.errors import EckartError
from eckart.layers import LowRankLinear


def source(rank: int = 6, outputs: int = 10, bias: bool = True) -> FactoredSource:
    torch.manual_seed(0)
    layer = LowRankLinear.empty_like(nn.Linear(12, outputs, bias=bias), rank).requires_grad_(False)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return FactoredSource(layer, {"k": slice(0, outputs - 3), "v": slice(outputs - 3, outputs)})


def encode(source: FactoredSource, inputs: torch.Tensor) -> torch.Tensor:
    assert isinstance(source.layer, LowRankLinear)
    return source.layer.encode(inputs)


def test_latents_as_they_are_come_back_as_outputs() -> None:
    sources = [source(), source(4)]
    sources[1] = FactoredSource(sources[1].layer, {"other": slice(0, 10)})
    codes = latent_codes(sources, frozenset({"v", "other"}), 16)
    assert isinstance(codes, WholeLatents)
    inputs = torch.randn(2, 5, 12)
    stored = codes.encode([encode(each, inputs) for each in sources])
    assert stored.shape == (2, 1, 5, 10)
    found = codes.decode(stored)
    assert found.keys() == {"v", "other"}
    torch.testing.assert_close(found["v"], sources[0].layer(inputs)[..., 7:])
    torch.testing.assert_close(found["other"], sources[1].layer(inputs))
    assert codes.token_bytes(torch.bfloat16) == 20


@pytest.mark.parametrize("bits", [bits for bits in BITS if bits != 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_codes_are_as_near_as_their_bits_allow(bits: int, dtype: torch.dtype) -> None:
    made = source(16, 24)
    made.layer.to(dtype)
    codes = latent_codes([made], frozenset({"k", "v"}), bits)
    assert isinstance(codes, RoundedLatents)
    inputs = torch.randn(3, 50, 12, dtype=dtype)
    stored = codes.encode([encode(made, inputs)])
    assert stored.dtype == torch.uint8
    assert stored.shape == (3, 1, 50, codes.token_bytes(dtype))
    assert codes.token_bytes(dtype) == -(-16 * bits // 8) + 2
    found, expected = codes.decode(stored), made.layer(inputs).float()
    ours = torch.cat([found["k"], found["v"]], dim=-1).float()
    error = float((ours - expected).norm() / (expected - made.layer.dense_bias()).norm())
    # A step is twice the largest number of a token over the codes, and an error a step over the root of 12.
    assert error < 2.6 / (2 ** (bits - 1) - 1) / 12**0.5 * 1.3 + (0.01 if dtype == torch.bfloat16 else 0)


def test_a_scale_for_each_token_and_layer() -> None:
    made = source(8, 12)
    codes = RoundedLatents([made, made], frozenset({"k", "v"}), 8)
    latents = torch.randn(1, 2, 8)
    latents[0, 1] *= 1e4
    found = codes.decode(codes.encode([latents, latents]))
    for token in range(2):
        expected = made.layer.decode(latents[:, token])
        ours = torch.cat([found["k"], found["v"]], dim=-1)[:, token]
        assert float((ours - expected).norm() / expected.norm()) < 0.01
    zeros = torch.zeros(1, 1, 8)
    torch.testing.assert_close(
        codes.decode(codes.encode([zeros, zeros]))["k"][0, 0], made.layer.decode(zeros)[0, 0, :9]
    )


def test_layers_of_a_model_in_few_bits() -> None:
    attention = factored().model.layers[0].self_attn
    sources = [each for each in sources_below(attention) if "k_proj" in each.outputs]
    codes = latent_codes(sources, frozenset({"k_proj"}), 8)
    inputs = torch.randn(2, 4, 32)
    found = codes.decode(codes.encode([attention.k_proj.encode(inputs).detach()]))["k_proj"].detach()
    expected = attention.k_proj(inputs).detach()
    assert 0 < float((found - expected).norm() / expected.norm()) < 0.01


@pytest.mark.parametrize("size", [1e-6, 1.0, 4e4])
@pytest.mark.parametrize("factored_layer", [True, False])
def test_numbers_near_the_ends_of_float16(size: float, factored_layer: bool) -> None:
    """A scale may be smaller than it holds, and what is turned larger."""
    outputs = torch.randn(1, 50, 64).clamp(-1.5, 1.5) * size
    if factored_layer:
        layer = LowRankLinear.empty_like(nn.Linear(64, 64, bias=False), 64).requires_grad_(False)
        nn.init.eye_(layer.second.weight)
        made = FactoredSource(layer.half(), {"k": slice(0, 64)})
        codes = RoundedLatents([made], frozenset({"k"}), 8)
    else:
        codes = RoundedLatents([OutputSource(nn.Linear(3, 64, bias=False), {"k": slice(0, 64)})], frozenset({"k"}), 8)
    latents = outputs.half()
    found = codes.decode(codes.encode([latents]))["k"]
    assert found.dtype == torch.float16
    error = (found.double() - latents.double()).norm() / latents.double().norm()
    assert error < (0.05 if size < 1e-3 else 0.01)  # of 1e-6 float16 itself has few digits


@pytest.mark.parametrize("bits", [7, 0, True, 8.0, "8"])
def test_bits_that_cannot_be(bits: object) -> None:
    with pytest.raises(EckartError, match="Latents take 16, 8, 6, 5, 4, 3 bits, found"):
        check_bits(bits)  # type: ignore[arg-type]
    check_bits(None)
    check_bits(16)
