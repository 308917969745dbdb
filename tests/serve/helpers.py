"""Layers of every layout with random numbers, and their parts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from eckart.layers import FactoredLinear, Pattern, PivotedLinear, bias_vector
from eckart.layers.child import ChildShape, make_child
from eckart.maths.quantization import QuantScheme
from eckart.methods.layout import Layout
from eckart.methods.precision import Bits2, Bits3, Bits4, Bits8, SemiStructured
from eckart.methods.structure import Hybrid, Pivoted, Remapped
from eckart.serve.part import Part
from eckart.serve.product import Product

LAYOUTS: dict[str, Layout] = {
    "two-factor": Layout(),
    "two-factor-8": Layout(precision=Bits8()),
    "two-factor-4": Layout(precision=Bits4(group=16)),
    "pivoted": Layout(Pivoted()),
    "pivoted-4": Layout(Pivoted(), Bits4(group=16)),
    "hybrid": Layout(Hybrid(base=Bits4(group=16))),
    "hybrid-8": Layout(Hybrid(base=Bits8())),
    "hybrid-3": Layout(Hybrid(base=Bits3(group=16)), Bits8()),
    "hybrid-sparse": Layout(Hybrid(base=SemiStructured())),
    "remapped": Layout(Remapped()),
}
WHOLE: dict[str, Layout] = {
    "8-bit": Layout(precision=Bits8()),
    "4-bit": Layout(precision=Bits4(group=16)),
    "2-bit": Layout(precision=Bits2(group=16)),
}
ALL = {**LAYOUTS, **WHOLE, "dense": Layout()}


def fill(layer: nn.Module, seed: int = 0) -> nn.Module:
    """Set all numbers of a layer."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in (*layer.parameters(), *layer.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator, dtype=torch.float64))
            elif tensor.dtype in (torch.int8, torch.uint8):
                tensor.copy_(torch.randint(0, 127, tensor.shape, generator=generator))
    if isinstance(layer, PivotedLinear):
        layer.index = torch.randperm(layer.out_features, generator=generator).to(torch.int16)
    for module in layer.modules():
        if type(module).__name__ == "SparseLinear":  # places of two numbers in a group rise
            assert isinstance(module.places, Tensor)
            module.places.copy_(torch.full_like(module.places, 0x44))
    return layer.eval()


def random_layer(layout: str, out: int = 24, inputs: int = 32, rank: int = 8, *, bias: bool = False) -> nn.Module:
    """Return a layer of a layout, in float64."""
    linear = nn.Linear(inputs, out, bias=bias, dtype=torch.float64)
    chosen = ALL[layout]
    factored = layout in LAYOUTS
    return fill(chosen.empty_like(linear, rank if factored else None), seed=out)


def run(part: Part, inputs: Tensor) -> Tensor:
    """Return the outputs of one part."""
    outputs: Tensor = Product([part])(inputs)
    return outputs


def inputs_of(columns: int = 32) -> Tensor:
    """Return (3, columns) float64."""
    return torch.randn(3, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def without_bias(layer: nn.Module, inputs: Tensor) -> Tensor:
    """Return the outputs of a layer but for its bias."""
    bias = layer.dense_bias() if isinstance(layer, FactoredLinear) else bias_vector(layer)
    outputs: Tensor = layer(inputs)
    return outputs if bias is None else outputs - bias


def matrix_of(kind: str, out: int = 12, inputs: int = 32) -> nn.Module:
    """Return a child without a bias: dense, sparse, or of few bits."""
    schemes = {"8": QuantScheme(8), "8-groups": QuantScheme(8, 16), "4": QuantScheme(4, 16), "4-row": QuantScheme(4)}
    scheme = Pattern.TWO_OF_FOUR if kind == "sparse" else schemes.get(kind)
    shape = ChildShape(inputs, out, bias=False, scheme=scheme)
    return fill(make_child(shape, None, bias=False, device="cpu", dtype=torch.float64))
