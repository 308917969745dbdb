"""A layer of few bits in a compiled model is run as it is."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tests.serve.helpers import inputs_of, matrix_of
from torch import Tensor, nn

from eckart.serve.opaque import OpaqueLinear


@pytest.mark.parametrize("kind", ["8", "4"])
def test_it_is_the_layer(kind: str) -> None:
    layer: Any = matrix_of(kind)
    opaque = OpaqueLinear(layer)
    with torch.inference_mode():
        assert torch.equal(opaque(inputs_of()), layer(inputs_of()))


def test_a_compiler_does_not_look_into_it() -> None:
    layer: Any = matrix_of("8")
    seen = []
    run = layer.forward

    def watched(inputs: Tensor) -> Tensor:
        seen.append((len(inputs), torch.compiler.is_compiling()))
        outputs: Tensor = run(inputs)
        return outputs

    layer.forward = watched
    model = nn.Sequential(OpaqueLinear(layer), nn.ReLU())
    compiled = torch.compile(model, backend="eager", fullgraph=True, dynamic=True)
    with torch.inference_mode():
        for tokens in (2, 3):
            assert torch.equal(compiled(inputs_of()[:tokens]), run(inputs_of()[:tokens]).relu())
    assert seen == [(2, False), (3, False)]


def test_two_layers_are_told_apart() -> None:
    first, second = OpaqueLinear(matrix_of("8")), OpaqueLinear(matrix_of("4"))  # type: ignore[arg-type]
    assert first.number != second.number
    with torch.inference_mode():
        for opaque in (first, second):
            outputs = torch.ops.eckart.run_layer(inputs_of(), opaque.number, opaque.out_features)
            assert torch.equal(outputs, opaque(inputs_of()))
    assert copy.deepcopy(first)(inputs_of()).shape == (3, 12)
