"""Biases that a compressed model has and its model class has not: a dense checkpoint of it would lose them."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch

from eckart.layers import FactoredLinear, bias_vector

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def biases_without_a_place(model: PreTrainedModel) -> list[str]:
    """Return the paths of factored linears with a bias where the model's own class, built by its config, has none."""
    found = [
        # Linears that were fused are of one kind, and the first of them stands where their fused layer is.
        name.removesuffix(".joint")
        for name, layer in model.named_modules()
        if isinstance(layer, FactoredLinear) and bias_vector(layer.second) is not None
    ]
    if not found:
        return []
    with torch.device("meta"):  # only names are looked at
        plain = type(model)(copy.deepcopy(model.config))
    modules = dict(plain.named_modules())  # an expert's linear is not there, where they are one tensor
    return [name for name in found if name not in modules or bias_vector(modules[name]) is None]


def lost_biases(model: PreTrainedModel, names: list[str]) -> str:
    """Return a sentence on biases that :func:`biases_without_a_place` found, and what to do."""
    return (
        f"{len(names)} layers, such as {names[0]}, were given a bias by objective.affine=true, and "
        f"{type(model).__name__} has none there: a dense checkpoint would be loaded without them and give other "
        "outputs. Keep the compressed folder, or compress again with --set objective.affine=false to merge."
    )
