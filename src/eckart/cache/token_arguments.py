"""What attention modules are handed for each token beside its hidden state, such as the angles of its position."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor


class TokenArguments:
    """Those of all tokens in a cache, held once for all layers that are handed the same.

    A model may compute angles anew for all tokens when a text grows long; what was used for a token stays used for it,
    as in a cache of keys.

    Attributes:
        dims: which dimension of each argument counts tokens, by path.
        kept: the arguments, by path.
        seen: how many tokens there were so far, also those that are not held any more.
        held: how many tokens each layer holds that looks here, by its number. The first one tells when tokens or
            sequences are dropped or put in another order.
    """

    def __init__(self, dims: Mapping[str, int]) -> None:
        self.dims = dict(dims)
        self.kept: dict[str, Tensor] = {}
        self.seen = 0
        self.held: list[int] = []  # and no layers: a cache that nobody uses is freed at once

    def join(self) -> int:
        """Let one more layer look here, and return its number."""
        self.held.append(0)
        return len(self.held) - 1

    def extend(self, tensors: Mapping[str, Tensor], seen: int) -> None:
        """Add those of new tokens, unless another layer has done so in this pass.

        Args:
            tensors: of the new tokens, by path.
            seen: how many tokens there are now.
        """
        if self.seen == seen or not self.dims:
            return
        self.seen = seen
        held = max(self.held, default=0)
        for path, dim in self.dims.items():
            new = tensors[path]
            if path in self.kept and held:
                new = _joined(_last(self.kept[path], dim, held), new, dim)
            self.kept[path] = new

    def last(self, tokens: int) -> dict[str, Tensor]:
        """Return those of the last tokens, by path."""
        return {path: _last(self.kept[path], dim, tokens) for path, dim in self.dims.items()}

    def drop_last(self, tokens: int) -> None:
        """Forget the last tokens."""
        self.seen -= tokens
        for path, dim in self.dims.items():
            kept = self.kept[path]
            self.kept[path] = kept.narrow(dim, 0, max(kept.shape[dim] - tokens, 0))

    def forget(self) -> None:
        """Forget all tokens."""
        self.kept, self.seen = {}, 0

    def change_sequences(self, batch: int, change: Callable[[Tensor, int], Tensor]) -> None:
        """Put the sequences of a batch in another order, repeat or drop some.

        Args:
            batch: how many there are.
            change: of a tensor, along the dimension that counts sequences.
        """
        for path, dim in self.dims.items():
            # What is the same for all sequences has one of them, or no such dimension.
            if dim > 0 and batch > 1 and self.kept[path].shape[dim - 1] == batch:
                self.kept[path] = change(self.kept[path], dim - 1)

    def bytes(self) -> int:
        """Return what they take in memory."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.kept.values())


def _last(tensor: Tensor, dim: int, tokens: int) -> Tensor:
    return tensor.narrow(dim, tensor.shape[dim] - tokens, tokens)


def _joined(past: Tensor, new: Tensor, dim: int) -> Tensor:
    """Return both behind one another; what one of them has once for all sequences is repeated as the other needs it."""
    sizes = torch.broadcast_shapes(_once(past, dim), _once(new, dim))  # type: ignore[no-untyped-call]
    parts = [tensor.expand(*sizes[:dim], tensor.shape[dim], *sizes[dim + 1 :]) for tensor in (past, new)]
    return torch.cat(parts, dim=dim)


def _once(tensor: Tensor, dim: int) -> tuple[int, ...]:
    return tuple(1 if place == dim else size for place, size in enumerate(tensor.shape))
