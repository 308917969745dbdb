"""Loads a model to compress or to evaluate: a local folder, a hub id or a GGUF file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from eckart.checkpoint.gguf import load_gguf_model, load_gguf_tokenizer
from eckart.checkpoint.quantizer import METHOD
from eckart.errors import CheckpointError, EckartError, UnsupportedModelError


def load_model(source: str | Path, *, dtype: torch.dtype | None = None, offload: Path | None = None) -> PreTrainedModel:
    """Return the causal language model at ``source``, on the CPU, in evaluation mode.

    Args:
        source: a local folder (dense or compressed), a hub id, or a ``.gguf`` file.
        dtype: of its weights; None for the dtype that they are stored in (bfloat16 for a GGUF file).
        offload: leave the weights in their files, to be read when they are used, and write those that are not stored
            as the model has them in memory into this folder. Not for ``.gguf`` files.

    Raises:
        CheckpointError: there is no such model, or it cannot be read.
        UnsupportedModelError: it is no causal language model.
    """
    path = Path(source)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise CheckpointError(f"There is no file {path}.")
        return load_gguf_model(path, dtype or torch.bfloat16).eval()
    config = _load_config(source)
    _check_causal(config, source)
    placement = {} if offload is None else {"device_map": {"": "disk"}, "offload_folder": offload}
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            source,
            config=config,
            dtype=dtype or "auto",
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # told below: the library tells them in a log that may be off
            **placement,
        )
    except EckartError:
        raise
    except Exception as error:  # OSError for absent files, SafetensorError for damaged ones, RuntimeError for shapes
        damaged = _damaged_file(Path(source))
        which = f" ({damaged.name} is damaged)" if damaged else ""
        raise CheckpointError(f"The weights of {source} cannot be loaded{which}: {_reason(error)}") from error
    if info["mismatched_keys"]:
        name, found, expected = sorted(info["mismatched_keys"])[0]
        raise CheckpointError(
            f"{len(info['mismatched_keys'])} weights of {source} have another shape than its config.json says, such as "
            f"{name!r}: found {tuple(found)}, expected {tuple(expected)}. Use the config.json that belongs to them."
        )
    missing = sorted(info["missing_keys"])
    if missing:
        raise CheckpointError(
            f"{source} lacks {len(missing)} weights that {type(model).__name__} needs, such as {missing[0]!r}. "
            "Expected a complete checkpoint of a causal language model."
        )
    return model.eval()


def load_tokenizer(source: str | Path) -> PreTrainedTokenizerBase | None:
    """Return the tokenizer at ``source``, or None if there is none."""
    path = Path(source)
    if path.suffix == ".gguf":
        return load_gguf_tokenizer(path)
    try:
        return AutoTokenizer.from_pretrained(source)
    except Exception:  # every tokenizer class fails in its own way where its files are absent
        return None


def check_compressible(model: PreTrainedModel) -> None:
    """Raise if ``model`` is quantized or compressed already."""
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is None:
        return
    method = quantizer.quantization_config.quant_method
    if method == METHOD:
        raise UnsupportedModelError(
            "The model is already compressed. Start from the original one, or multiply the factors back with "
            "`eckart merge` first."
        )
    raise UnsupportedModelError(f"The model is quantized ({method}). Start from the original 16-bit or 32-bit one.")


def _reason(error: Exception) -> str:
    """Return what an error says, without the advice to look at a log that may be off."""
    return str(error).partition(" For details look at ")[0]


def _damaged_file(folder: Path) -> Path | None:
    """Return the first safetensors file in ``folder`` that is truncated or no such file at all."""
    for path in sorted(folder.glob("*.safetensors")) if folder.is_dir() else ():
        try:
            with safe_open(path, framework="pt"):
                pass
        except (OSError, SafetensorError):
            return path
    return None


def _load_config(source: str | Path) -> Any:
    path = Path(source)
    if path.is_file():
        raise CheckpointError(f"{source} is a file; expected a model's folder, a hub id or a .gguf file.")
    if path.is_dir() and not (path / "config.json").is_file():
        raise CheckpointError(f"The folder {source} has no config.json, so it is not a model.")
    try:
        return AutoConfig.from_pretrained(source)
    except EckartError:
        raise
    except Exception as error:
        what = "has a config.json that cannot be read" if path.is_dir() else "is no local folder, and no hub model"
        raise CheckpointError(f"{str(source)!r} {what}: {error}") from error


def _check_causal(config: Any, source: str | Path) -> None:
    classes = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    found = getattr(config, "architectures", None) or []
    if getattr(config, "is_encoder_decoder", False) or (found and not classes & set(found)):
        raise UnsupportedModelError(
            f"{source} is a {', '.join(found) or config.model_type} model; only causal language models "
            "(decoders) can be compressed yet."
        )
