from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from eckart.layers import QuantizedLinear, fill_child, kernels
from eckart.maths.quantization import QuantScheme

GRIDS = [
    *(QuantScheme(8), QuantScheme(4, 32), QuantScheme(4, 64), QuantScheme(4, 128), QuantScheme(6, 64)),
    *(QuantScheme(5, 32, scale_bits=8), QuantScheme(3, 64, scale_bits=8), QuantScheme(2, 32)),
]


def make(scheme: QuantScheme, columns: int = 256, rows: int = 48) -> QuantizedLinear:
    torch.manual_seed(0)
    linear = nn.Linear(columns, rows).bfloat16()
    layer = QuantizedLinear.empty_like(linear, scheme)
    fill_child(layer, linear.weight.double(), linear.bias)
    return layer


def expected(layer: QuantizedLinear, inputs: torch.Tensor) -> torch.Tensor:
    assert layer.bias is not None
    return inputs.double() @ layer.dense_weight().T + layer.bias.double()


@pytest.mark.parametrize("scheme", GRIDS)
@pytest.mark.parametrize("shape", [(1,), (1, 1), (3, 2), (8,), (2, 4)])
def test_few_tokens_get_the_product_of_the_codes(scheme: QuantScheme, shape: tuple[int, ...]) -> None:
    layer = make(scheme)
    inputs = torch.randn(*shape, 256).bfloat16()
    with torch.no_grad():
        assert kernels.serves(inputs, layer.scale_parameter, scheme, 48)
        assert kernels.are_few(inputs)
        found = layer(inputs)
    assert found.dtype is torch.bfloat16
    assert found.shape == (*shape, 48)
    assert (found.double() - expected(layer, inputs)).norm() < 0.005 * expected(layer, inputs).norm()


def misplaced(tensor: torch.Tensor, offset: int) -> torch.Tensor:
    """Return the same numbers so many bytes behind where PyTorch would put them, as in a file mapped into memory."""
    raw = torch.empty(tensor.nbytes + offset, dtype=torch.int8)
    view = raw[offset:].view(tensor.dtype).view(tensor.shape)
    view.copy_(tensor)
    assert view.data_ptr() % kernels.ALIGNMENT
    return view


@pytest.mark.parametrize("scheme", GRIDS)
@pytest.mark.parametrize("tokens", [1, 6])
def test_operands_may_begin_anywhere(scheme: QuantScheme, tokens: int) -> None:
    layer = make(scheme)
    inputs = torch.randn(tokens, 256).bfloat16()
    wanted = expected(layer, inputs)
    layer.codes = misplaced(layer.codes, 8)
    for name in {"scale", "row_scale"} & set(layer._parameters):
        setattr(layer, name, nn.Parameter(misplaced(getattr(layer, name).detach(), 8)))
    with torch.no_grad():
        for _ in range(2):
            found = layer(misplaced(inputs, 8))
            assert (found.double() - wanted).norm() < 0.005 * wanted.norm()


@pytest.mark.parametrize("scheme", [*GRIDS, QuantScheme(8, 32), QuantScheme(4)])
@pytest.mark.parametrize(("columns", "rows"), [(33, 7), (24, 20), (40, 16), (256, 20), (1, 1), (16, 16)])
def test_any_shape_is_right_whoever_serves_it(scheme: QuantScheme, columns: int, rows: int) -> None:
    layer = make(scheme, columns, rows)
    inputs = torch.randn(2, columns).bfloat16()
    with torch.no_grad():
        found = layer(inputs)
    assert (found.double() - expected(layer, inputs)).norm() < 0.01 * (1 + expected(layer, inputs).norm())


@pytest.mark.parametrize("scheme", GRIDS)
def test_gradients_other_dtypes_and_many_tokens_are_served_by_floats(scheme: QuantScheme) -> None:
    layer = make(scheme)
    few = torch.randn(1, 256).bfloat16()
    assert not kernels.serves(few, layer.scale_parameter, scheme, 48)  # scales ask for a gradient
    with torch.no_grad():
        assert not kernels.serves(few.float(), layer.scale_parameter, scheme, 48)
        assert not kernels.are_few(few.expand(9, -1))
        assert not kernels.are_few(few[:0])
        assert not kernels.serves(few.to("meta"), layer.scale_parameter, scheme, 48)


@pytest.mark.parametrize("scheme", GRIDS)
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_many_tokens_are_multiplied_in_float32_where_16_bits_are_emulated(
    scheme: QuantScheme, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, inputs = make(scheme), torch.randn(40, 256).bfloat16()
    if not bias:
        layer.bias = None
    exact = inputs.double() @ layer.dense_weight().T + (0 if layer.bias is None else layer.bias.double())
    errors = {}
    for emulated in (True, False):
        monkeypatch.setattr(kernels, "is_emulated", lambda dtype, emulated=emulated: emulated)
        found = layer(inputs)
        assert found.dtype is torch.bfloat16
        errors[emulated] = float((found.double() - exact).norm() / exact.norm())
    # No more than what the outputs themselves are rounded by.
    assert errors[True] == pytest.approx(float((exact.bfloat16() - exact).norm() / exact.norm()), rel=1e-2)
    assert errors[True] <= errors[False] < 0.01


def test_a_changed_scale_is_seen_and_a_copy_makes_its_own() -> None:
    layer = make(QuantScheme(4, 32))
    inputs = torch.randn(1, 256).bfloat16()
    with torch.no_grad():
        before = layer(inputs)
        twin = copy.deepcopy(layer)
        layer.scale.mul_(2)
        assert (layer(inputs).double() - expected(layer, inputs)).norm() < 0.01 * expected(layer, inputs).norm()
        assert torch.equal(twin(inputs), before)
    assert set(layer.state_dict()) == {"codes", "scale", "bias"}


@pytest.mark.parametrize("scheme", GRIDS)
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_layers_run_the_products_too(
    scheme: QuantScheme, dynamic: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of few tokens or of many, whatever the graph was made with."""
    layer, packed = make(scheme), []
    pack = kernels.pack_for_product

    def counted(codes: torch.Tensor, scale: torch.Tensor, bits: int) -> kernels.Packed:
        packed.append(codes)
        return pack(codes, scale, bits)

    monkeypatch.setattr(kernels, "pack_for_product", counted)
    torch.compiler.reset()  # there is a limit to the graphs of one function
    compiled = torch.compile(layer, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    few, many = torch.randn(2, 256).bfloat16(), torch.randn(9, 256).bfloat16()
    with torch.inference_mode():
        for inputs in (many, few, few, many, few):
            assert torch.equal(compiled(inputs), layer(inputs))
        assert len(packed) == (2 if scheme.bits < 8 else 0)  # once each
        layer.set_codes(torch.zeros(48, 256, dtype=torch.int8))
        assert layer.bias is not None
        assert torch.equal(compiled(few)[0], layer.bias)
