"""Multiplies factors and codes back into dense weights."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from eckart.checkpoint.biases import biases_without_a_place, lost_biases
from eckart.checkpoint.guard import METHOD
from eckart.checkpoint.save import MAX_SHARD_SIZE
from eckart.errors import CheckpointError
from eckart.layers import FactoredLinear, KeptLinear, QuantizedLinear

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def is_compressed(model: PreTrainedModel) -> bool:
    """Return whether a model holds layers of this package."""
    quantizer = getattr(model, "hf_quantizer", None)
    return quantizer is not None and quantizer.quantization_config.quant_method == METHOD


def merged_layers(model: nn.Module) -> int:
    """Return how many layers stand for linear ones, without those inside them."""
    kinds = (FactoredLinear, QuantizedLinear, KeptLinear)
    inside = {id(child) for m in model.modules() if isinstance(m, kinds) for child in m.modules() if child is not m}
    return sum(isinstance(module, kinds) and id(module) not in inside for module in model.modules())


def check_mergeable(model: PreTrainedModel, name: str) -> None:
    """Raise if a compressed model has no dense form.

    Args:
        model: in memory.
        name: of it, for the error.

    Raises:
        CheckpointError: layers have a bias that their class has no place for.
    """
    lost = biases_without_a_place(model)
    if lost:
        raise CheckpointError(f"{name} cannot be merged: {lost_biases(model, lost)}")


def merge_layers(model: PreTrainedModel, name: str) -> PreTrainedModel:
    """Return a compressed model with all factors multiplied; the same object, changed. See :func:`check_mergeable`."""
    check_mergeable(model, name)
    return model.dequantize()


def bytes_of(model: nn.Module) -> int:
    """Return the bytes of a model's tensors: parameters, codes and indices, each once."""
    tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}
    return sum(t.numel() * t.element_size() for t in tensors.values())


def as_float32(model: PreTrainedModel) -> PreTrainedModel:
    """Return a model that computes in float32: itself, or a copy."""
    return model if model.dtype == torch.float32 else copy.deepcopy(model).to(torch.float32).eval()


def write_dense(model: PreTrainedModel, folder: Path) -> None:
    """Write a dense model into a folder."""
    model.save_pretrained(folder, max_shard_size=MAX_SHARD_SIZE)
