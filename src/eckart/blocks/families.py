"""Routed linears that are handed rows of one tensor, such as the first ones of the experts of a mixture.

What they are handed differs, and yet is of one kind: one basis can serve them all. The second linears of experts are
handed what their own experts made of it, which has nothing in common.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from eckart.blocks.block import hooks
from eckart.blocks.block_arguments import BlockArguments
from eckart.blocks.siblings import Names, pattern_of
from eckart.layers import input_of, is_linear

Rows = set[bytes]


def families(module: nn.Module, call: BlockArguments, hidden: Tensor, groups: Sequence[Names]) -> dict[Names, str]:
    """Return, for those groups of which it is so, a name of all whose inputs are rows of the same tensor.

    Args:
        module: the block, with its tensors.
        call: how the model calls it.
        hidden: a small batch (batch, length, width).
        groups: names of the linears of each routed group that a run reaches.
    """
    alike: dict[Names, list[Names]] = {}
    for names in groups:
        alike.setdefault(pattern_of(module, names), []).append(names)
    alike = {pattern: found for pattern, found in alike.items() if any("*" in name.split(".") for name in pattern)}
    if not alike:
        return {}
    linears = [name for name, part in module.named_modules() if is_linear(part)]
    around = {pattern: _around(module, pattern, linears) for pattern in alike}
    leaders = [names[0] for found in alike.values() for names in found]
    handed, given = _inputs(module, call, hidden, leaders, {place for places in around.values() for place in places})
    found_in: dict[Names, str] = {}
    for pattern, siblings in alike.items():
        rows = set[bytes]().union(*(handed.get(names[0], set()) for names in siblings))
        if any(rows <= source for place in around[pattern] for source in given.get(place, [])):
            found_in |= dict.fromkeys(siblings, pattern[0])
    return found_in


def _around(module: nn.Module, pattern: Names, linears: Sequence[str]) -> list[str]:
    """Return the names of the modules in a block around siblings that hold other linears too.

    What holds siblings alone is handed what they are, whatever that is of.
    """
    outer = pattern[0].split(".")
    outer = outer[: len(outer) - 1 - outer[::-1].index("*")]
    others = [name for name in linears if pattern_of(module, (name,))[0] not in pattern]
    places = [".".join(outer[:end]) for end in range(len(outer), -1, -1)]
    return [place for place in places if any(not place or name.startswith(f"{place}.") for name in others)]


def _inputs(
    module: nn.Module, call: BlockArguments, hidden: Tensor, leaders: Sequence[str], around: Collection[str]
) -> tuple[dict[str, Rows], dict[str, list[Rows]]]:
    """Return the rows that linears are handed, but for zeros, and those of each tensor that modules are handed."""
    handed: dict[str, Rows] = {}
    given: dict[str, list[Rows]] = {}

    def linear(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
            handed.setdefault(name, set()).update(_rows(input_of(args, kwargs)))

        return hook

    def outer(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
            for value in (*args, *kwargs.values()):
                if isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 1:
                    given.setdefault(name, []).append(_rows(value))

        return hook

    with hooks() as handles, torch.no_grad():
        for name in leaders:
            handles.append(module.get_submodule(name).register_forward_pre_hook(linear(name), with_kwargs=True))
        for name in around:
            handles.append(module.get_submodule(name).register_forward_pre_hook(outer(name), with_kwargs=True))
        call(module, hidden.clone())  # it may be written to
    return handed, given


def _rows(tensor: Tensor) -> Rows:
    """Return the rows of a tensor as they are in memory, but for those of zeros: some runs are filled up with them."""
    rows = tensor.detach().flatten(0, -2).float().cpu()
    return {row.tobytes() for row in rows[rows.any(dim=1)].numpy()}
