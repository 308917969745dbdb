"""Writes a dense decoder as a GGUF file, by the maps with which transformers reads such files, the other way round."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from eckart.checkpoint.gguf import load_gguf_model, load_gguf_tokenizer
from eckart.errors import ExportError
from eckart.runtimes.gguf_tensors import architecture_of, tensors_for
from eckart.runtimes.gguf_tokenizer import add_tokenizer, check_tokenizer
from eckart.runtimes.samples import Sample
from eckart.runtimes.targets import holders_of_factors
from eckart.runtimes.verify import Difference, compare_models

if TYPE_CHECKING:
    from gguf import GGUFWriter
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

NAME = "model.gguf"
HEAD_SIZE = ("attention.key_length", "attention.value_length")  # llama.cpp guesses them where they are not told


def write_gguf(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, folder: Path, quantize: str | None = None
) -> Path:
    """Write a dense model into a folder, and return the path of its file.

    Args:
        model: of linear layers only.
        tokenizer: of it; the file holds it too.
        folder: to write into.
        quantize: type of numbers for matrices, such as ``q8_0``; None for the model's dtype.

    Raises:
        ExportError: transformers reads no such architecture back, or not all of its tensors or settings.
    """
    if tokenizer is None:
        raise ExportError(
            "A GGUF file holds the tokenizer, and the model has none: its folder lacks tokenizer.json. Copy it from "
            "the original model, or give a tokenizer (in Python)."
        )
    architecture = architecture_of(model)
    from gguf import GGMLQuantizationType, GGUFWriter
    from gguf.quants import quantize as round_to

    path = folder / NAME
    writer = GGUFWriter(path, architecture)
    try:
        _add_settings(writer, model, architecture)
        add_tokenizer(writer, tokenizer, model)
        kind = GGMLQuantizationType[quantize.upper()] if quantize else None
        for name, tensor in tensors_for(model, architecture):
            if kind is not None and tensor.ndim == 2 and tensor.shape[1] % 32 == 0:
                writer.add_tensor(name, round_to(_array(tensor.float()), kind), raw_dtype=kind)
            elif tensor.dtype == torch.bfloat16 and tensor.ndim > 1:
                brain = GGMLQuantizationType.BF16
                writer.add_tensor(name, round_to(_array(tensor.float()), brain), raw_dtype=brain)
            else:  # norms and biases are float32 in all such files
                writer.add_tensor(name, _array(tensor.float() if tensor.ndim == 1 else tensor))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
    return path


def compare_gguf(
    reference: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, samples: Sequence[Sample], path: Path
) -> Difference:
    """Return how far a file, read back by transformers, is from the model in memory.

    Raises:
        ExportError: it reads another tokenizer, or another model.
    """
    try:
        read = load_gguf_tokenizer(path)
    except Exception as error:  # each kind of tokenizer fails in its own way
        raise ExportError(
            f"A GGUF file of {reference.config.model_type} models cannot hold this tokenizer: transformers takes what "
            f"is in it for one of another kind, and cannot read it ({type(error).__name__}: {error}). Export the model "
            f"to {holders_of_factors()} or dense, which keep the tokenizer's own files."
        ) from error
    check_tokenizer(tokenizer, read)
    return compare_models(reference, load_gguf_model(path, torch.float32).eval(), samples)


def _add_settings(writer: GGUFWriter, model: PreTrainedModel, architecture: str) -> None:
    from transformers.integrations.ggml import GGUF_CONFIG_MAPPING

    config = model.config
    writer.add_name(model.config.model_type)
    for key, attribute in GGUF_CONFIG_MAPPING[architecture].items():
        value = _setting(config, attribute)
        if value is not None:
            _add(writer, f"{architecture}.{key}", value)
    head = _setting(config, "head_dim")
    for key in HEAD_SIZE:
        if isinstance(head, int) and key not in GGUF_CONFIG_MAPPING[architecture]:
            writer.add_uint32(f"{architecture}.{key}", head)


def _setting(config: Any, attribute: str | None) -> Any:
    rotary = getattr(config, "rope_parameters", None) or {}
    if rotary.get("rope_type", "default") != "default":
        raise ExportError(
            f"The model stretches its positions ({rotary['rope_type']}), which transformers does not read back from a "
            f"GGUF file. Merge it (--to dense) and convert it with llama.cpp's own script, or export it to "
            f"{holders_of_factors()}."
        )
    if attribute is None:
        return None
    return rotary[attribute] if attribute in rotary else getattr(config, attribute, None)


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, list):
        writer.add_array(key, value)
    else:
        raise ExportError(f"The setting {key} is {value!r}, which no GGUF file holds.")


def _array(tensor: Tensor) -> NDArray[numpy.float32]:
    found: NDArray[numpy.float32] = tensor.detach().contiguous().numpy()
    return found
