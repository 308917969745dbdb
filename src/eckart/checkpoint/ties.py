"""Tensors that a model's config ties, in a model that was opened without its weights.

The base library ties two tensors that are both stored only if they are equal, and cannot see that before it has read
them. What is left open then is settled here in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def settle_ties(
    model: PreTrainedModel, index: MutableMapping[str, dict[str, Any]], read: Callable[[str], Tensor]
) -> None:
    """Tie what is stored once or twice alike, and take apart what is stored twice and differs.

    Args:
        model: without its weights; is changed.
        index: where each tensor is stored, by its name; a name that stands for another one's tensor is added.
        read: returns the tensor of a name.
    """
    for target, source in list(model.all_tied_weights_keys.items()):
        stored_target, stored_source = index.get(target), index.get(source)
        if stored_target is None or stored_source is None:
            both = stored_target or stored_source
            if both is not None:
                index[target] = index[source] = both
            continue
        if _place(stored_target) == _place(stored_source):
            continue
        first, second = read(target), read(source)
        if first.shape == second.shape and torch.equal(first, second):
            parent, _, leaf = target.rpartition(".")
            setattr(model.get_submodule(parent), leaf, model.get_parameter_or_buffer(source))
        else:
            model.all_tied_weights_keys.pop(target)


def _place(entry: dict[str, Any]) -> tuple[Any, Any]:
    return entry["safetensors_file"], entry["weight_name"]
