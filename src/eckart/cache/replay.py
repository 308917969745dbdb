"""Keys and values of tokens of the past: an attention module is run again up to where it hands them to a cache.

Norms, rotations and whatever else a model does between a projection and its cache are so the model's own, and no
attention is written here for any of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from eckart.cache.call import Call, Roles, blank_like


class _Handed(Exception):  # noqa: N818  # no error: it ends a pass that has given what it is for
    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.keys, self.values = keys, values


class _Catcher(Cache):  # type: ignore[misc]
    """A cache that is empty, and ends the pass with what it is handed."""

    def __init__(self) -> None:
        super().__init__(layers=[])

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Raise what was handed over."""
        raise _Handed(key_states, value_states)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return 0: nothing was before."""
        return 0


class _Given:
    """Stands for a linear layer whose output is known."""

    def __init__(self, output: Tensor, replaced: nn.Module) -> None:
        self.output, self.replaced = output, replaced

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.output

    def __getattr__(self, name: str) -> Any:
        return getattr(self.replaced, name)


@dataclass(frozen=True)
class States:
    """What an attention module hands to its cache.

    Attributes:
        keys: (batch, heads, tokens, head size).
        values: likewise.
    """

    keys: Tensor
    values: Tensor


def states_again(
    attention: nn.Module, call: Call, roles: Roles, kept: Mapping[str, Tensor], outputs: Mapping[str, Tensor]
) -> States | None:
    """Return the keys and values of tokens from the outputs of projections.

    Args:
        attention: the module; it is not changed.
        call: one that it is handed now.
        roles: what is to become of the tensors of the call.
        kept: those that are stored, for all of the tokens, by path.
        outputs: of projections, (batch, tokens, out features), by path below the module.

    Returns:
        None if the module hands nothing to its cache.
    """
    tokens = next(iter(outputs.values())).shape[1]

    def tensor_for(path: str, tensor: Tensor) -> Tensor | None:
        if path in kept:
            return kept[path]
        if path in roles.blank:
            return blank_like(tensor, roles.blank[path], tokens)
        return tensor if path in roles.constant else None

    again = call.replaced(tensor_for, _Catcher())
    double = _with_outputs(attention, outputs)
    try:
        type(attention).forward(double, *again.args, **again.kwargs)
    except _Handed as handed:
        return States(handed.keys, handed.values)
    return None


def zero_output(like: Tensor, width: int) -> Tensor:
    """Return zeros (batch, tokens, width) that take no memory, on the device of ``like`` (batch, tokens, ..)."""
    return torch.zeros((), dtype=like.dtype, device=like.device).expand(*like.shape[:2], width)


def _with_outputs(module: nn.Module, outputs: Mapping[str, Tensor]) -> nn.Module:
    """Return a double of a module in which some of its descendants give known outputs."""
    double = object.__new__(type(module))
    double.__dict__.update(module.__dict__, _modules=dict(module._modules))
    inside: dict[str, dict[str, Tensor]] = {}
    for path, output in outputs.items():
        name, _, rest = path.partition(".")
        if rest:
            inside.setdefault(name, {})[rest] = output
        else:
            double._modules[name] = cast(nn.Module, _Given(output, cast(nn.Module, module._modules[name])))
    for name, parts in inside.items():
        double._modules[name] = _with_outputs(cast(nn.Module, module._modules[name]), parts)
    return double
