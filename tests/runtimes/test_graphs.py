"""Graphs of models in every layout: run by their runtimes, they give the model's logits, and factors are factors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.runtimes.helpers import LAYOUTS, compressed, decoder, encoder, mixed
from torch import nn
from transformers import PreTrainedModel
from transformers.exporters import AutoHfExporter

import eckart
from eckart.errors import ExportError
from eckart.layers import FactoredLinear, LowRankLinear, QuantizedLinear, fill_child
from eckart.maths.packing import WIDTHS
from eckart.maths.quantization import QuantScheme
from eckart.runtimes.graphs import write_graphs
from eckart.runtimes.samples import samples_for
from eckart.runtimes.targets import target_of


def matrices(path: Path) -> list[tuple[int, ...]]:
    """Return the shape of each matrix that a graph of ONNX holds."""
    onnx_ir = pytest.importorskip("onnx_ir")
    graph = onnx_ir.load(path).graph
    shapes = [tuple(value.const_value.shape) for value in graph.initializers.values() if value.const_value is not None]
    return sorted(tuple(map(int, shape)) for shape in shapes if len(shape) == 2)


MIXED = (("shared", "pivoted", "8-bit", "4-bit"), ("hybrid", "sparse-hybrid", "remapped"))


def test_every_layout_is_in_a_mixture() -> None:
    assert {"two-factor"}.union(*MIXED) == set(LAYOUTS)


@pytest.mark.parametrize("layouts", MIXED)
@pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning")
def test_onnx_runtime_gives_the_logits_of_each_layout(layouts: tuple[str, ...], tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = mixed(layouts)
    kinds = {type(layer).__name__ for layer in model.modules() if isinstance(layer, FactoredLinear | QuantizedLinear)}
    assert len(kinds) >= len(layouts) - 1  # factors of 8 and of 4 bits are layers of one class
    done = eckart.export(model, "onnx", tmp_path / "out")
    assert done.parts == ["model"]
    assert done.difference <= 1e-5 * done.largest


def test_factors_are_not_multiplied(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = compressed(encoder(), "two-factor")
    done = eckart.export(model, "onnx", tmp_path / "out")
    assert done.difference <= 1e-5 * done.largest
    factors = [layer for layer in model.modules() if isinstance(layer, LowRankLinear)]
    assert len(factors) == 6
    expected = [shape for layer in factors for shape in ((32, layer.rank), (layer.rank, layer.out_features))]
    found = matrices(tmp_path / "out" / "model.onnx")
    for layer in factors:
        assert (layer.in_features, layer.rank) in found or (layer.rank, layer.in_features) in found
    assert len(found) >= len(expected)
    assert (32, 48) not in found  # the product of two factors
    assert (48, 32) not in found


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning")
def test_openvino_gives_the_logits_of_each_layout(layout: str, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    done = eckart.export(compressed(encoder(), layout), "openvino", tmp_path / "out")
    assert done.difference <= 1e-5 * done.largest


def test_executorch_gives_the_logits_of_two_factors(tmp_path: Path) -> None:
    pytest.importorskip("executorch")
    done = eckart.export(compressed(encoder(), "two-factor"), "executorch", tmp_path / "out")
    assert done.difference <= 1e-4 * done.largest


@pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning")
def test_codes_of_all_widths_in_any_number_of_tokens(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = decoder()
    ids = torch.randint(10, 200, (8, 16), generator=torch.Generator().manual_seed(1))
    eckart.compress(model, "svd", 0.9, ids, overrides=["embedding={name: 5-bit, group: 8, scale_bits: 8}"])
    factored = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, LowRankLinear)]
    for number, (name, layer) in enumerate(factored):
        scheme = QuantScheme(WIDTHS[number % len(WIDTHS)], 8, scale_bits=8 if number % 2 else 16)
        coded = QuantizedLinear(layer.in_features, layer.out_features, scheme, bias=False)
        fill_child(coded, layer.dense_weight().double(), None)
        model.set_submodule(name, coded)
    assert {layer.scheme.bits for layer in model.modules() if isinstance(layer, QuantizedLinear)} == set(WIDTHS)
    done = eckart.export(model, "onnx", tmp_path / "out")
    assert done.difference <= 1e-5 * done.largest


def test_a_decoder_is_one_graph_for_prompt_and_tokens(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    done = eckart.export(compressed(decoder(), "two-factor"), "onnx", tmp_path / "out")
    assert done.parts == ["model"]
    assert done.difference <= 1e-5 * done.largest


def test_the_exporters_own_reason_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Exporter:
        def export(self, *_: Any) -> None:
            try:
                raise ValueError("no such operator: strange.op")
            except ValueError as error:
                raise RuntimeError("export failed") from error

    monkeypatch.setattr(AutoHfExporter, "from_config", lambda config: Exporter())
    model = encoder()
    with pytest.raises(
        ExportError, match=r"BertForMaskedLM cannot be exported to onnx: ValueError: no such operator: strange.op\."
    ):
        write_graphs(model, samples_for(model, None)[0], target_of("onnx"), tmp_path)


def test_the_model_is_as_it_was(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Exporter:
        def export(self, *_: Any) -> None:
            raise RuntimeError("stop")

    monkeypatch.setattr(AutoHfExporter, "from_config", lambda config: Exporter())
    monkeypatch.setattr("eckart.runtimes.targets.find_spec", lambda name: name)
    model: PreTrainedModel = compressed(encoder(), "two-factor")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ExportError, match="stop"):
        eckart.export(model, "onnx", tmp_path / "out")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.config.quantization_config is not None
    assert any(isinstance(layer, LowRankLinear) for layer in nn.Module.modules(model))
    assert list(tmp_path.iterdir()) == []
