"""Residual streams inside a block: which linears add their output to one, and where it can be read.

Found by numbers, no name is looked at: a linear writes to a residual stream r if r plus its output is handed on, to a
module of the block or behind it. A norm or a scale behind the linear, or a branch added beside it, and it does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from eckart.blocks.block_arguments import BlockArguments
from eckart.errors import UnsupportedModelError
from eckart.layers import is_linear

FRONT = ""  # the place in front of a block. A place is named by the module whose input it is, and this is the block's


def residual_places(block: nn.Module, call: BlockArguments, hidden: Tensor) -> dict[str, str]:
    """Return, for each linear of a block whose output is added to a residual stream, where that stream can be read.

    Args:
        block: as it is in the original model.
        call: how the model calls it.
        hidden: a small batch (batch, length, width).

    Returns:
        By the name of the linear in the block, the name of the module whose input the stream is.
    """
    inputs: dict[str, Tensor] = {}  # in order of execution
    outputs: dict[str, Tensor] = {}
    reached: dict[str, int] = {}  # how many inputs were there when a linear ran
    arguments: dict[str, int] = {}

    def before(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
            arguments[name] = arguments.get(name, 0) + 1
            tensor = first_tensor(args, kwargs)
            if tensor is not None and tensor.shape[-1] == hidden.shape[-1]:
                inputs.setdefault(name, rows(tensor).clone())  # it may be written to

        return hook

    def after(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> None:
            if rows(output).shape == inputs[FRONT].shape:
                outputs[name] = rows(output).clone()
                reached[name] = len(inputs)

        return hook

    with ExitStack() as stack, torch.no_grad():
        for name, module in block.named_modules():
            stack.enter_context(module.register_forward_pre_hook(before(name), with_kwargs=True))
            if is_linear(module):
                stack.enter_context(module.register_forward_hook(after(name)))
        behind = call(block, hidden)
    handed_on = [*inputs.values(), rows(behind)]
    once = {name: tensor for name, tensor in inputs.items() if arguments[name] == 1}
    found: dict[str, str] = {}
    for name, output in outputs.items():
        if arguments[name] != 1:
            continue
        earlier = set(list(inputs)[: reached[name]])
        for place, stream in once.items():
            if place in earlier and any(_is_sum(total, stream, output) for total in handed_on):
                found[name] = place
                break
    return found


def _is_sum(total: Tensor, stream: Tensor, output: Tensor) -> bool:
    """Return whether ``total`` is ``stream + output`` to rounding, and not ``stream`` itself to rounding."""
    if not total.shape == stream.shape == output.shape:
        return False
    return _is_close(stream + output, total) and not _is_close(stream, total)


def _is_close(ours: Tensor, theirs: Tensor) -> bool:
    return torch.allclose(ours, theirs, rtol=2 * torch.finfo(theirs.dtype).eps, atol=0)


def check_residuals(places: Iterable[str | None], model: nn.Module) -> None:
    """Raise if no linear of a model writes to a residual stream.

    Raises:
        UnsupportedModelError: says what to do.
    """
    if all(place is None for place in places):
        raise UnsupportedModelError(
            f"No linear layer in the blocks of {type(model).__name__} adds its output to the residual stream by "
            "itself: a norm, a scale or a parallel branch comes between. Residual anchoring expects one that does; "
            "use --set objective.residual_anchoring=0."
        )


@contextmanager
def reading(block: nn.Module, places: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """Give a dictionary that holds, after a run of the block inside, the residual stream at each place.

    Args:
        block: as it is or compressed.
        places: where to read.

    Yields:
        (tokens, width) by place, filled as the places are reached.
    """
    seen: dict[str, Tensor] = {}

    def record(place: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
            tensor = first_tensor(args, kwargs)
            assert tensor is not None
            seen[place] = rows(tensor).detach().clone()

        return hook

    with ExitStack() as stack:
        for place in places:
            hooked = block.get_submodule(place).register_forward_pre_hook(record(place), with_kwargs=True)
            stack.enter_context(hooked)
        yield seen


def first_tensor(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    """Return the first tensor of floats that a module is handed."""
    values = (*args, *kwargs.values())
    return next((value for value in values if isinstance(value, Tensor) and value.is_floating_point()), None)


def rows(tensor: Tensor) -> Tensor:
    """Return (..., width) as (tokens, width)."""
    return tensor.reshape(-1, tensor.shape[-1])
