"""Layers that factored ones are made of: numbers that are set are those that are stored."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from eckart.layers.child import ChildShape, Pattern, dense_weight_of, fill_child, make_child
from eckart.maths.quantization import QuantScheme

KINDS: list[QuantScheme | Pattern | None] = [None, QuantScheme(8, None), QuantScheme(4, 8), Pattern.TWO_OF_FOUR]
M, N = 6, 16


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("own", KINDS, ids=str)
@pytest.mark.parametrize(("has_bias", "may_have"), [(True, True), (True, False), (False, True)])
def test_a_child_is_what_its_shape_says(own: QuantScheme | Pattern | None, has_bias: bool, may_have: bool) -> None:
    shape = ChildShape(N, M, may_have, own)
    child = make_child(shape, None, bias=has_bias, device="meta", dtype=torch.bfloat16)
    assert (child.in_features, child.out_features) == (N, M)
    assert (child.bias is not None) == (has_bias and may_have)
    assert {p.dtype for p in child.parameters()} == {torch.bfloat16}
    assert {p.device.type for p in child.parameters()} == {"meta"}


def test_a_scheme_of_its_own_goes_before_that_of_the_layer() -> None:
    own, layers = QuantScheme(8, None), QuantScheme(4, 8)
    for chosen, expected in ((own, own), (None, layers)):
        child = make_child(ChildShape(N, M, False, chosen), layers, bias=False, device=None, dtype=None)
        assert getattr(child, "scheme", None) == expected


@pytest.mark.parametrize("own", KINDS, ids=str)
@pytest.mark.parametrize("feeds_back", [False, True])
def test_what_is_set_is_what_it_computes_with(own: QuantScheme | Pattern | None, feeds_back: bool) -> None:
    child = make_child(ChildShape(N, M, True, own), None, bias=True, device=None, dtype=torch.float32)
    weight, bias, inputs = numbers(M, N), numbers(M, seed=1), numbers(N, 3 * N, seed=2)
    fill_child(child, weight, bias, torch.bfloat16, inputs @ inputs.T if feeds_back else None)
    held = dense_weight_of(child)
    assert held.dtype == torch.float64
    assert not held.requires_grad
    with torch.no_grad():
        outputs = child(inputs.T.float()).double().T
    assert child.bias is not None
    torch.testing.assert_close(outputs, held @ inputs + child.bias.detach().double()[:, None], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(child.bias.detach().double(), bias, rtol=1e-2, atol=0)
    # All that is no code is a number of 16 bits, whatever dtype the layer has.
    for parameter in child.parameters():
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter.bfloat16().float(), parameter)
    lost = {None: 0.01, KINDS[1]: 0.02, KINDS[2]: 0.2, Pattern.TWO_OF_FOUR: 0.8}[own]
    assert 0 < (held - weight).norm() < lost * weight.norm()


@pytest.mark.parametrize("own", KINDS, ids=str)
def test_with_the_inputs_known_less_of_the_outputs_is_lost(own: QuantScheme | Pattern | None) -> None:
    weight = numbers(M, N)
    # Features go together, and are of very different sizes among four neighbours.
    sizes = torch.logspace(-1, 1, N, dtype=torch.float64).reshape(4, 4).T.reshape(N, 1)
    inputs = sizes * (numbers(N, 4, seed=3) @ numbers(4, 200, seed=4) + 0.1 * numbers(N, 200, seed=5))
    lost = []
    for moment in (None, inputs @ inputs.T):
        child = make_child(ChildShape(N, M, False, own), None, bias=False, device=None, dtype=torch.bfloat16)
        fill_child(child, weight, None, second_moment=moment)
        lost.append(float(((dense_weight_of(child) - weight) @ inputs).norm()))
    assert lost[1] < 0.9 * lost[0]


def test_numbers_of_32_bits_are_left_as_they_are() -> None:
    child = make_child(ChildShape(N, M, False), None, bias=False, device=None, dtype=torch.float32)
    weight, inputs = numbers(M, N), numbers(N, 50)
    fill_child(child, weight, None, second_moment=inputs @ inputs.T)
    assert torch.equal(dense_weight_of(child), weight.float().double())
