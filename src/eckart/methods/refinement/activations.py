"""What a block holds between its forward and its backward pass: how much that is, and how to hold less of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from eckart.blocks.block_arguments import replaced_forwards


def saved_bytes(run: Callable[[], object], parameters: list[nn.Parameter]) -> int:
    """Return the bytes that ``run`` keeps for a backward pass, other than those of ``parameters``."""
    known = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    held: dict[int, Tensor] = {}  # kept alive, so that an address belongs to one tensor

    def pack(tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in known:
            held.setdefault(address, tensor)
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()
    del result
    return sum(tensor.untyped_storage().nbytes() for tensor in held.values())


def checkpointed(block: nn.Module) -> AbstractContextManager[None]:
    """Let each child of ``block`` hold only its inputs, and compute the rest again in the backward pass."""

    def again(_: int, forward: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: checkpoint(forward, *args, use_reentrant=False, **kwargs)

    children = [child for child in block.children() if next(child.parameters(), None) is not None]
    return replaced_forwards(children, again)
