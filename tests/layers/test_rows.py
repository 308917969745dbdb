from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from eckart.layers import (
    DictionaryLinear,
    FactoredLinear,
    HybridLinear,
    KeptColumnsLinear,
    LowRankLinear,
    Mask,
    Pattern,
    PivotedLinear,
    RemappedLinear,
)
from eckart.layers.quantized import QuantizedLinear
from eckart.layers.rows import RowsLinear, empty_rows_linear, some_outputs
from eckart.maths.quantization import QuantScheme

OUT, IN, RANK = 24, 10, 4
EIGHT, FOUR = QuantScheme(8), QuantScheme(4, 4)


class Plain(LowRankLinear):
    """A layer from elsewhere that knows nothing of rows."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return super().forward(inputs)


def whole(out_features: int = OUT, bias: bool = True) -> RowsLinear:
    return empty_rows_linear(IN, out_features, bias=bias)


def pivoted(linear: nn.Module) -> FactoredLinear:
    layer = PivotedLinear.empty_like(linear, RANK)
    pivots = torch.tensor([1, 7, 8, 20])
    layer.set_rows(pivots, torch.tensor([n for n in range(OUT) if n not in pivots.tolist()]))
    return layer


def shuffled(linear: nn.Module) -> FactoredLinear:
    layer = PivotedLinear.empty_like(linear, RANK)
    order = torch.randperm(OUT)
    layer.set_rows(order[:RANK], order[RANK:])
    return layer


def in_order(linear: nn.Module) -> FactoredLinear:
    layer = PivotedLinear.empty_like(linear, RANK)
    assert layer.drop_index_in_order()
    return layer


MAKE: dict[str, Callable[[nn.Module], nn.Module]] = {
    "dense": lambda linear: linear,
    "two factors": lambda linear: LowRankLinear.empty_like(linear, RANK),
    "8 bits": lambda linear: LowRankLinear.empty_like(linear, RANK, EIGHT),
    "4 bits": lambda linear: LowRankLinear.empty_like(linear, RANK, FOUR),
    "whole in 8 bits": lambda linear: QuantizedLinear.empty_like(linear, EIGHT),
    "whole in 4 bits": lambda linear: QuantizedLinear.empty_like(linear, FOUR),
    "pivoted": pivoted,
    "pivoted in 8 bits": lambda linear: PivotedLinear.empty_like(linear, RANK, EIGHT),
    "pivoted, in another order": shuffled,
    "pivoted, in order": in_order,
    "hybrid": lambda linear: HybridLinear.empty_like(linear, RANK, base=FOUR),
    "sparse": lambda linear: HybridLinear.empty_like(linear, RANK, base=Pattern.TWO_OF_FOUR),
    "remapped": lambda linear: RemappedLinear.empty_like(linear, RANK),
    "kept columns": lambda linear: KeptColumnsLinear.empty_like(linear, RANK, columns=3),
    "dictionary": lambda linear: DictionaryLinear.empty_like(linear, RANK, pattern=Mask(OUT * 2)),
    "from elsewhere": lambda linear: Plain.empty_like(linear, RANK),
}


def fill(layer: nn.Module) -> None:
    """Give all tensors of a layer numbers of their kind, but for an index."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in (*layer.named_parameters(), *layer.named_buffers()):
            if name.endswith("codes"):
                tensor.copy_(torch.randint(0, 100, tensor.shape, generator=generator))
            elif tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", MAKE)
def test_some_outputs_are_those_of_all(kind: str, bias: bool) -> None:
    torch.manual_seed(0)
    layer = MAKE[kind](whole(bias=bias))
    fill(layer)
    inputs = torch.randn(3, IN)
    with torch.no_grad():
        expected = layer(inputs)
        assert torch.equal(some_outputs(layer, inputs, None), expected)
        for start in range(0, OUT, 8):
            found = some_outputs(layer, inputs, slice(start, start + 8))
            torch.testing.assert_close(found, expected[:, start : start + 8], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("bits", [8, 4])
def test_a_few_tokens_in_16_bits(bits: int) -> None:
    """What PyTorch multiplies in few bits by itself."""
    linear = empty_rows_linear(64, 96, dtype=torch.bfloat16)
    layer = QuantizedLinear.empty_like(linear, QuantScheme(bits, None if bits == 8 else 32))
    fill(layer)
    inputs = torch.randn(2, 64, dtype=torch.bfloat16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = layer(inputs)
        for start in range(0, 96, 32):
            found = layer(inputs, slice(start, start + 32))
            torch.testing.assert_close(found, expected[:, start : start + 32], rtol=0.02, atol=0.5)


@pytest.mark.parametrize("kind", [kind for kind in MAKE if kind not in ("from elsewhere", "pivoted, in another order")])
def test_no_other_outputs_are_computed(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = MAKE[kind](whole())
    fill(layer)
    sizes: list[int] = []
    linear = nn.functional.linear

    def watched(inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        sizes.append(len(weight))
        return linear(inputs, weight, bias)

    monkeypatch.setattr(nn.functional, "linear", watched)
    for start in range(0, OUT, 8):
        some_outputs(layer, torch.randn(3, IN), slice(start, start + 8))
    assert sizes
    assert max(sizes) <= 8 + RANK


def test_gradients_go_to_those_rows_alone() -> None:
    layer = whole()
    fill(layer)
    layer(torch.randn(3, IN), slice(8, 16)).square().sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad[8:16].any()
    assert not layer.weight.grad[:8].any()
    assert not layer.weight.grad[16:].any()


def test_second_factors_of_other_layers_are_plain() -> None:
    assert type(LowRankLinear.empty_like(nn.Linear(5, 7), 3).second) is nn.Linear
    assert type(LowRankLinear.empty_like(whole(), 3).second) is RowsLinear
    assert [kind.takes_rows for kind in (RowsLinear, LowRankLinear, Plain)] == [True, True, False]
