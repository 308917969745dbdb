"""The verb: a model in the format of another runtime, run there and compared before it gets its name."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from eckart.checkpoint.load import load_model
from eckart.checkpoint.loaded import check_unchanged
from eckart.checkpoint.processor import copy_processor, load_processor
from eckart.checkpoint.save import check_new_folder, new_folder
from eckart.checkpoint.tokenizer import copy_tokenizer
from eckart.data.processor import Inputs, Processor
from eckart.errors import CheckpointError, EckartWarning, ExportError
from eckart.runtimes.dense import as_float32, bytes_of, is_compressed, merge_layers, merged_layers, write_dense
from eckart.runtimes.gguf import compare_gguf, write_gguf
from eckart.runtimes.graphs import write_graphs
from eckart.runtimes.result import Export
from eckart.runtimes.samples import Sample, samples_for
from eckart.runtimes.targets import Target, target_of
from eckart.runtimes.verify import Difference, check, compare_graphs, compare_models

GRAPH_ROOM = 4  # times the bytes in memory: codes may become floats, and parts hold the same weights


def export(
    model: str | Path | PreTrainedModel,
    to: str,
    output: str | Path,
    *,
    quantize: str | None = None,
    dtype: torch.dtype | None = None,
    inputs: Mapping[str, Tensor] | None = None,
    processor: Any | None = None,
    overwrite: bool = False,
    trust_remote_code: bool = False,
) -> Export:
    """Write a model in the format of another runtime, run it there, and compare.

    Graphs (``onnx``, ``openvino``, ``executorch``) are written by the exporters of transformers, and hold factors as
    factors. ``gguf`` and ``dense`` hold dense weights only: factors are multiplied first.

    Args:
        model: a folder, compressed or dense, a hub id, or a model in memory, which stays as it is.
        to: ``onnx``, ``openvino``, ``executorch``, ``gguf`` or ``dense``.
        output: folder to write; appears only when it is complete and was found to compute the same.
        quantize: round weights with the runtime's own tools: ``int8``, ``int4``, or for GGUF ``q8_0``, ``q4_0`` and
            others. How far logits are from those of the model in memory is told then, and not judged.
        dtype: of the floats that are written; None for what the runtime runs best.
        inputs: what the model's forward takes, by name (what ``generate`` takes if it writes), to trace it with and to
            compare it on; None to make some up.
        processor: of the model, or its tokenizer; None for that in its folder.
        overwrite: replace ``output`` if Eckart wrote it.
        trust_remote_code: whether Python code that comes with the model may be run.

    Returns:
        What was written, and how far it is from the model in memory, which computes in float32.

    Raises:
        ExportError: a package is missing, the model cannot be exported, or what was written computes something else.
        CheckpointError: there is no such model, or ``output`` cannot be written.
    """
    target = target_of(to)
    target.check(quantize)
    _check_dtype(target, dtype)
    name = type(model).__name__ if isinstance(model, PreTrainedModel) else str(model)
    reads = [] if isinstance(model, PreTrainedModel) else [Path(model)]
    output = Path(output)
    if output.suffix in (".gguf", ".onnx", ".xml", ".pte"):
        raise ExportError(f"The output {output} is named like a file; expected the name of a folder to make.")
    check_new_folder(output, overwrite=overwrite, reads=reads)
    source = None if isinstance(model, PreTrainedModel) else model
    held, processor = _load(model, processor, trust_remote_code)
    before, merged = bytes_of(held), 0
    held = held.to(dtype or target.dtype or held.dtype)
    reference = as_float32(held)
    if not target.keeps_factors and is_compressed(held):
        merged = merged_layers(held)
        reference = copy.deepcopy(reference) if reference is held else reference
        held = merge_layers(held, name)
    samples: list[Sample] = samples_for(held, processor) if inputs is None else [dict(inputs)]
    needed = bytes_of(held) * (GRAPH_ROOM if target.keeps_factors else 1)
    with new_folder(output, overwrite=overwrite, needed=needed, reads=reads) as partial:
        parts, found = _write(target, held, reference, samples, partial, quantize, processor)
        written = sum(path.stat().st_size for path in partial.iterdir() if path.suffix not in (".json", ".jinja"))
        tolerance = check(found, held.dtype if target.rounds else torch.float32) if quantize is None else None
        check_unchanged(held)
        _write_processor(source, processor, partial)
    return Export(
        target=to,
        folder=output,
        dtype=str(held.dtype).removeprefix("torch."),
        quantize=quantize,
        parts=parts,
        difference=found.largest_difference,
        largest=found.largest,
        tolerance=tolerance,
        bytes_written=written,
        bytes_before=before,
        merged=merged,
    )


def _write(
    target: Target,
    model: PreTrainedModel,
    reference: PreTrainedModel,
    samples: list[Sample],
    folder: Path,
    quantize: str | None,
    processor: Any,
) -> tuple[list[str], Difference]:
    if target.name == "gguf":
        tokenizer = None if processor is None else Processor.of(processor).tokenizer
        path = write_gguf(model, tokenizer, folder, quantize)
        return [path.name], compare_gguf(reference, tokenizer, samples, path)
    if target.name == "dense":
        write_dense(model, folder)
        return ["model"], compare_models(reference, load_model(folder, dtype=torch.float32), samples)
    parts = write_graphs(model, samples[0], target, folder, quantize)
    return parts, compare_graphs(reference, samples, folder, parts, target.name)


def _check_dtype(target: Target, dtype: torch.dtype | None) -> None:
    if dtype is not None and dtype not in target.dtypes:
        known = ", ".join(str(known).removeprefix("torch.") for known in target.dtypes)
        raise ExportError(f"{target.runtime} runs no numbers of {dtype}, as far as was tried. Use {known}.")


def _load(model: str | Path | PreTrainedModel, processor: Any | None, trusted: bool) -> tuple[PreTrainedModel, Any]:
    if isinstance(model, PreTrainedModel):
        return copy.deepcopy(model).cpu().eval(), processor
    held = load_model(model, trust_remote_code=trusted)
    if processor is None:
        try:
            processor = load_processor(model, trust_remote_code=trusted)
        except CheckpointError as error:
            if not Inputs.of(held).text_alone:
                raise
            warnings.warn(f"{error} Its files are copied as they are.", EckartWarning, stacklevel=3)
    return held, processor


def _write_processor(source: str | Path | None, processor: Any | None, folder: Path) -> None:
    if source is not None:
        copy_processor(source, folder)
        if isinstance(processor, PreTrainedTokenizerBase):
            processor.save_pretrained(folder)
        else:
            copy_tokenizer(source, folder)
    elif processor is not None:
        processor.save_pretrained(folder)
