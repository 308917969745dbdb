"""Compressed models in all layouts, and the same models dense, as references for PEFT's own layers."""

from __future__ import annotations

import copy
from functools import cache

import torch
from tests.conftest import make_model
from torch import Tensor, nn
from transformers import PreTrainedModel

import eckart

# By name: recipe, size and settings.
LAYOUTS: dict[str, tuple[str, float, list[str]]] = {
    "two factors": ("svd-llm", 0.6, []),
    "two factors with biases": ("aa-svd-layer", 0.6, ["objective.affine=true"]),
    "pivoted": ("svd-llm", 0.6, ["structure=pivoted"]),
    "hybrid": ("svd-llm", 0.6, ["structure=hybrid", "structure.base.group=16"]),
    "shared": ("aa-svd-layer", 0.6, ["sharing=shared"]),
    "shared, pivoted": ("aa-svd-layer", 0.6, ["sharing=shared", "structure=pivoted"]),
    "8 bits": ("svd-llm", 0.45, ["precision=8-bit"]),
    "4 bits": ("svd-llm", 0.27, ["precision=4-bit"]),
    "4 bits, pivoted": ("svd-llm", 0.27, ["structure=pivoted", "precision=4-bit"]),
    "4 bits, shared": ("aa-svd-layer", 0.27, ["sharing=shared", "precision=4-bit"]),
    "remapped": ("svd-llm", 0.6, ["structure=remapped"]),
    "4 bits, whole": ("svd-llm", 0.4, ["precision=4-bit"]),
}
FEW_BITS = [name for name in LAYOUTS if "bits" in name or name == "remapped"]
MERGED = [name for name in LAYOUTS if name not in FEW_BITS]
TOKENS = torch.randint(256, (4, 12), generator=torch.Generator().manual_seed(2))


@cache
def _compressed(layout: str, kind: str) -> PreTrainedModel:
    recipe, keep, overrides = LAYOUTS[layout]
    model = make_model(kind)
    calibration = torch.randint(256, (12, 24), generator=torch.Generator().manual_seed(1))
    eckart.compress(model, recipe, keep, calibration, overrides=overrides)
    return model


def compressed(layout: str, kind: str = "qwen2", dtype: torch.dtype = torch.float64) -> PreTrainedModel:
    """Return a new compressed model, by default one with biases; float64 shows what is no rounding."""
    return copy.deepcopy(_compressed(layout, kind)).to(dtype)


def dense_twin(model: PreTrainedModel) -> PreTrainedModel:
    """Return a dense model that computes the same."""
    twin: PreTrainedModel = copy.deepcopy(model).dequantize()
    return twin


def logits(model: nn.Module, **options: object) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=TOKENS, **options).logits
    return found


def fill(model: nn.Module, seed: int = 0) -> None:
    """Give all adapters numbers that depend on their names alone, as if they had been trained."""
    for name, parameter in sorted(model.named_parameters()):
        if "lora_" in name:
            short = name.partition("model.layers")[2]
            generator = torch.Generator().manual_seed(seed + sum(map(ord, short)))
            with torch.no_grad():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter.shape[-1] ** 0.5)


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Return the largest difference, relative to the largest number."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


def rounding(ours: Tensor, exact: Tensor) -> float:
    """Return how far numbers of few digits are from exact ones, relative to those as a whole."""
    return float((ours.double() - exact).norm() / exact.norm())
