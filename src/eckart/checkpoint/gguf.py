"""Reads a GGUF file as a plain transformers model."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from eckart.errors import CheckpointError
from eckart.files.names import JSON_LIMIT, file_inside

# GGUF names the way a tokenizer splits text before merging. Those that transformers turns into something else:
PRE_TOKENIZERS = {
    "smollm": lambda: pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
}

BESIDE = ("config.json", "tokenizer_config.json", "generation_config.json")


def load_gguf_model(path: Path, dtype: torch.dtype) -> PreTrainedModel:
    """Return the model in a GGUF file with its weights turned back into floats of ``dtype``.

    Raises:
        CheckpointError: the file cannot be read, or the extra that reads it is not installed.
    """
    _check_beside(path)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            path.parent,
            gguf_file=path.name,
            dtype=dtype,
            trust_remote_code=False,
            quantization_config=GgufConfig(gguf_file=path.name, dequantize=True),
        )
    except ImportError as error:
        raise CheckpointError(f"Reading {path} needs an extra: pip install 'eckart[gguf]'. ({error})") from error
    except Exception as error:  # the readers raise many kinds, down to numpy's
        raise CheckpointError(f"{path} cannot be read as a GGUF model: {error}") from error
    if getattr(model, "hf_quantizer", None) is not None:
        # Some architectures go through a path that forgets to say that nothing is quantized any more.
        model.hf_quantizer.remove_quantization_config(model)
        model.hf_quantizer = None
    return model


def load_gguf_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer in a GGUF file."""
    _check_beside(path)
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, trust_remote_code=False)
    kind = _pre_tokenizer_name(path)
    if kind in PRE_TOKENIZERS:
        tokenizer.backend_tokenizer.pre_tokenizer = PRE_TOKENIZERS[kind]()
    return tokenizer


def _check_beside(path: Path) -> None:
    """Raise if a file beside it that transformers looks into as well must not be opened."""
    for name in BESIDE:
        if (path.parent / name).exists():
            file_inside(path.parent, name, limit=JSON_LIMIT)


def _pre_tokenizer_name(path: Path) -> str | None:
    from gguf import GGUFReader

    field = GGUFReader(path).get_field("tokenizer.ggml.pre")
    return str(field.contents()) if field else None
