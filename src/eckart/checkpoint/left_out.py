"""Tensors that a model's files hold and its class has no place for: the base library drops them without a word."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from eckart.checkpoint.tensors import StoredTensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MATRICES = (2, 3)  # dimensions of weights; buffers of old versions have fewer, or are masks, which have four


def note_on_left_out(
    source: str, model: PreTrainedModel, unexpected: Iterable[str], stored: Mapping[str, StoredTensor]
) -> str | None:
    """Return a sentence on what was not loaded, or None if nothing is lost.

    Args:
        source: of the model.
        model: as loaded.
        unexpected: names that transformers found no place for.
        stored: what the files hold.
    """
    names = sorted({*unexpected, *_ignored_weights(model, stored)})
    if not names:
        return None
    lost = sum(stored[name].nbytes for name in names if name in stored)
    whole = sum(tensor.nbytes for tensor in stored.values())
    share = f" ({lost / 1e6:.1f} MB, {lost / whole:.1%} of the bytes of its weights)" if lost else ""
    return (
        f"{source} holds {len(names)} tensors that {type(model).__name__} has no place for, such as {names[0]!r}"
        f"{share}. They are not loaded, and will not be in what is made of this model."
    )


def _ignored_weights(model: PreTrainedModel, stored: Mapping[str, StoredTensor]) -> list[str]:
    """Return weights that the model's class is told to ignore, such as those of heads that predict more tokens.

    The same list has buffers that older versions stored; those are no loss.
    """
    patterns = [re.compile(pattern) for pattern in model._keys_to_ignore_on_load_unexpected or ()]
    if not patterns:
        return []
    places = model.state_dict().keys()
    return [
        name
        for name, tensor in stored.items()
        if name not in places
        and tensor.is_float
        and len(tensor.shape) in MATRICES
        and any(pattern.search(name) for pattern in patterns)
    ]
