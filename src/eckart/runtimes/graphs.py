"""Writes a model as graphs, with the exporters of transformers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers.exporters import AutoHfExporter, ExportedModel
from transformers.exporters.configs import DynamoConfig, ExecutorchConfig, OnnxConfig, OpenVINOConfig

from eckart.errors import ExportError
from eckart.runtimes.quiet import quiet
from eckart.runtimes.samples import Sample
from eckart.runtimes.stages import MODEL, traced_calls
from eckart.runtimes.targets import Target

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LONGEST = 800  # characters of an exporter's reason


def write_graphs(
    model: PreTrainedModel, sample: Sample, target: Target, folder: Path, quantize: str | None = None
) -> list[str]:
    """Write the graphs of a model into a folder, and return their names.

    Args:
        model: in evaluation mode; its config is changed while it is traced.
        sample: what it is traced with.
        target: one of those whose graphs transformers exports.
        folder: to write into.
        quantize: how the runtime's tools round weights.

    Raises:
        ExportError: it cannot be exported; with the exporter's own reason.
    """
    try:
        with quiet(), torch.no_grad():
            calls = traced_calls(model, sample)
            config = _config(target.name, quantize)
            exporter = AutoHfExporter.from_config(config)
            components = {}
            for call in calls:
                exported = exporter.export(call.module, call.inputs, config)
                components[call.part] = exported.components[MODEL]
            own = copy.deepcopy(model.config)
            if hasattr(own, "quantization_config"):  # says how layers are held in memory, and not in a graph
                del own.quantization_config
            generation = model.generation_config if model.can_generate() else None
            ExportedModel(components, target.name, own, generation).save_pretrained(folder)
    except ExportError:
        raise
    except Exception as error:  # each library of a graph fails in its own way
        raise ExportError(
            f"{type(model).__name__} cannot be exported to {target.name}: {_reason(error)} This is what the exporter "
            "of transformers says; other formats, or another version of it, may do better."
        ) from error
    return list(components)


def _config(name: str, quantize: str | None) -> DynamoConfig:
    quantizer = _QUANTIZERS[name, quantize]() if quantize else None
    if name == "onnx":
        return OnnxConfig(dynamic=True, quantizer=quantizer)
    if name == "openvino":
        # A cache as inputs and outputs, as everywhere: the runner of transformers reads no graph that holds its own.
        return OpenVINOConfig(dynamic=True, stateful=False, quantizer=quantizer)
    return ExecutorchConfig(dynamic=True)


def _onnx_int8() -> Any:
    from transformers.exporters import OnnxRuntimeDynamicConfig, OnnxRuntimeQuantizer

    return OnnxRuntimeQuantizer(OnnxRuntimeDynamicConfig(op_types_to_quantize=["MatMul", "Gemm"], per_channel=True))


def _onnx_int4() -> Any:
    from transformers.exporters import NNCFOnnxQuantizer

    return NNCFOnnxQuantizer(_nncf_int4())


def _nncf_int4() -> Any:
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedCompressionParameters, GroupSizeFallbackMode
    from transformers.exporters import NNCFWeightCompressionConfig

    # A rank need not be a multiple of the numbers that share a scale; then fewer do, or 8 bits are taken.
    smaller = AdvancedCompressionParameters(group_size_fallback_mode=GroupSizeFallbackMode.ADJUST)
    return NNCFWeightCompressionConfig(mode=nncf.CompressWeightsMode.INT4_SYM, advanced_parameters=smaller)


def _openvino_int8() -> Any:
    import nncf
    from transformers.exporters import NNCFOpenVINOQuantizer, NNCFWeightCompressionConfig

    return NNCFOpenVINOQuantizer(NNCFWeightCompressionConfig(mode=nncf.CompressWeightsMode.INT8_SYM))


def _openvino_int4() -> Any:
    from transformers.exporters import NNCFOpenVINOQuantizer

    return NNCFOpenVINOQuantizer(_nncf_int4())


_QUANTIZERS: dict[tuple[str, str | None], Callable[[], Any]] = {
    ("onnx", "int8"): _onnx_int8,
    ("onnx", "int4"): _onnx_int4,
    ("openvino", "int8"): _openvino_int8,
    ("openvino", "int4"): _openvino_int4,
}


def _reason(error: BaseException) -> str:
    """Return what went wrong first: exporters wrap it several times."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(f"{type(error).__name__}: {error}".split())
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
    return text if text.endswith(".") else f"{text}."
