"""What a parameter is that no linear layer to be compressed holds, in a word, and why it stays: seen by structure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn
from torch.nn.modules.conv import _ConvNd

from eckart.layers import is_linear

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def kind_of(model: PreTrainedModel, place: str, parameter: nn.Parameter) -> tuple[str, str]:
    """Return what a parameter is, and why it stays as it is.

    Args:
        model: that it is in.
        place: path of the module that holds it.
        parameter: its tensor may be nowhere.
    """
    module = model.get_submodule(place)
    if isinstance(module, nn.Embedding):
        return "embedding", "no linear layer"
    if is_linear(module):
        return ("head", "no linear layer") if _is_head(model, module) else ("linear layer", "not run as such")
    if isinstance(module, _ConvNd):
        return "convolution", "no linear layer"
    if parameter.dim() > 2:
        return "experts", "many matrices in one tensor"
    if parameter.dim() == 2:
        return ("router", "chooses experts") if _chooses(model, place, parameter) else ("matrix", "no linear layer")
    vectors_only = all(p.dim() < 2 for p in module.parameters())
    return "norm" if vectors_only and not list(module.children()) else "vector", "no matrix"


def _is_head(model: PreTrainedModel, module: nn.Module) -> bool:
    return module is model.get_output_embeddings()


def _chooses(model: nn.Module, place: str, parameter: nn.Parameter) -> bool:
    """Return whether a matrix has a row for each of the experts beside it."""
    around = model.get_submodule(place.rpartition(".")[0])
    counts = {len(child) for child in around.modules() if isinstance(child, nn.ModuleList)}
    others = (child for child in around.modules() if not isinstance(child, _ConvNd))
    counts |= {p.shape[0] for child in others for p in child.parameters(recurse=False) if p.dim() > 2}
    return parameter.shape[0] in counts
