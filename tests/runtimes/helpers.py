"""Models of one block: a graph is traced in seconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tests.tiny_models import DECODER, TEXT
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

import eckart

# How linears are laid out, as overrides of a recipe, and what share of bytes is kept.
LAYOUTS: dict[str, tuple[tuple[str, ...], float]] = {
    "two-factor": ((), 0.6),
    "pivoted": (("structure=pivoted",), 0.6),
    "shared": (("sharing=shared",), 0.6),
    "8-bit": (("precision=8-bit",), 0.4),
    "4-bit": (("precision=4-bit",), 0.3),
    "hybrid": (("structure=hybrid",), 0.6),
    "sparse-hybrid": (("structure=hybrid", "structure.base=2-of-4"), 0.8),
    "remapped": (("structure=remapped",), 0.6),
}


def encoder(**sizes: Any) -> PreTrainedModel:
    """Return an encoder of one block with a head for masked tokens."""
    torch.manual_seed(0)
    return _random(BertForMaskedLM(BertConfig(**{**TEXT, "num_hidden_layers": 1, **sizes})))


def decoder() -> PreTrainedModel:
    """Return a decoder of one block."""
    torch.manual_seed(0)
    return _random(LlamaForCausalLM(LlamaConfig(**{**DECODER, "num_hidden_layers": 1})))


def compressed(model: PreTrainedModel, layout: str) -> PreTrainedModel:
    """Return a model, changed, in a layout of :data:`LAYOUTS`."""
    overrides, keep = LAYOUTS[layout]
    ids: Tensor = torch.randint(10, 200, (8, 16), generator=torch.Generator().manual_seed(1))
    eckart.compress(model, "svd-llm", keep, [{"input_ids": row[None]} for row in ids], overrides=list(overrides))
    return model


def mixed(layouts: Sequence[str]) -> PreTrainedModel:
    """Return an encoder whose layers take turns at being laid out in these ways: one graph is traced for all."""
    models = [compressed(encoder(), layout) for layout in layouts]
    first = models[0]
    # Layers that share a factor stay together.
    groups = [["query", "key", "value"], ["attention.output.dense"], ["intermediate.dense"], ["0.output.dense"]]
    for number, names in enumerate(groups):
        other = models[number % len(models)]
        for path in [path for path, _ in first.named_modules() if path.endswith(tuple(names))]:
            first.set_submodule(path, other.get_submodule(path))
    return first


def _random(model: PreTrainedModel) -> PreTrainedModel:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()
