"""Linears whose outputs choose, such as the router of a mixture of experts: they are small, and are left alone.

Found in a probe run: what becomes of their outputs, through anything but a product, is ranked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from eckart.blocks.block_arguments import BlockArguments
from eckart.layers import is_linear, weight_matrix

# Functions of torch, by their names, behind which it is not the same numbers that go on; and those that rank numbers.
PRODUCTS = ("linear", "matmul", "__matmul__", "mm", "bmm", "addmm", "baddbmm", "einsum", "conv1d", "conv2d")
ATTENTION = ("scaled_dot_product_attention",)
RANKING = ("topk", "sort", "argsort", "argmax", "kthvalue", "multinomial")


def routers(module: nn.Module, call: BlockArguments, hidden: Tensor) -> set[str]:
    """Return the names of the linears in a block, with fewer outputs than inputs, whose outputs choose.

    Args:
        module: the block, with its tensors.
        call: how the model calls it.
        hidden: a small batch (batch, length, width).
    """
    if not any(_is_narrow(part) for part in module.modules()):
        return set()
    trace = _Trace()
    with ExitStack() as stack, trace, torch.no_grad():
        for name, part in module.named_modules():
            if _is_narrow(part):
                stack.callback(part.register_forward_hook(trace.mark(name)).remove)
        call(module, hidden.clone())  # it may be written to
    return set(trace.choosing)


def _is_narrow(part: nn.Module) -> bool:
    if not is_linear(part):
        return False
    out_features, in_features = weight_matrix(part).shape
    return out_features < in_features


class _Trace(TorchFunctionMode):
    """Follows the outputs of linears through a run."""

    def __init__(self) -> None:
        super().__init__()
        self.choosing: set[str] = set()
        self._marked: dict[int, tuple[Tensor, frozenset[str]]] = {}  # tensors are held, so that their ids stay theirs

    def mark(self, name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        """Return a hook that says whose output a tensor is."""

        def hook(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> None:
            self._marked[id(output)] = (output, frozenset([name]))

        return hook

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run a function, and note what its result is made of."""
        result = function(*args, **(kwargs or {}))
        name = getattr(function, "__name__", "")
        if name in PRODUCTS or name in ATTENTION:
            return result
        names = frozenset[str]().union(*(self._names(arg) for arg in (*args, *(kwargs or {}).values())))
        if names:
            if name in RANKING:
                self.choosing |= names
            for tensor in result if isinstance(result, tuple | list) else (result,):
                if isinstance(tensor, Tensor):
                    self._marked[id(tensor)] = (tensor, names)
        return result

    def _names(self, value: Any) -> frozenset[str]:
        if isinstance(value, tuple | list):
            return frozenset[str]().union(*(self._names(item) for item in value))
        return self._marked[id(value)][1] if id(value) in self._marked else frozenset()
