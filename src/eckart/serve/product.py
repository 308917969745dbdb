"""Several parts side by side, as one layer of an engine: what q, k and v of an attention are, or gate and up.

All matrices of one kind that read the same inputs run as one product, whatever their ranks are; then each part goes on
with its own piece of it. The numbers are those of one product a matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from eckart.serve.matrices import kind_of, stack
from eckart.serve.part import Part

AnyMatrix = TypeVar("AnyMatrix", bound=nn.Module)


class _Piece(NamedTuple):
    """Whose some outputs of a stacked matrix are: those of one of the matrices that a part reads inputs with."""

    part: int
    place: int
    outputs: int


class Product(nn.Module):
    """``y``, (..., outputs of all parts), of ``x``, (..., inputs).

    Attributes:
        readers: matrices that read inputs, those of one kind stacked.
        tails: what each part does behind them.
        order: (outputs,) int64, the place of each output among those of the parts; None for their own order.
    """

    order: Tensor | None

    def __init__(self, parts: Sequence[Part], order: Tensor | None = None) -> None:
        super().__init__()
        groups: dict[tuple[object, ...], list[tuple[int, int]]] = {}
        for number, part in enumerate(parts):
            for place, (start, matrix) in enumerate(part.reads):
                groups.setdefault((start, *kind_of(matrix)), []).append((number, place))
        self.readers = nn.ModuleList()
        self._ranges: list[tuple[int, int]] = []
        self._pieces: list[list[_Piece]] = []
        for members in groups.values():
            found = [parts[number].reads[place] for number, place in members]
            matrices = [matrix for _, matrix in found]
            start = found[0][0]
            self.readers.append(stack(matrices))
            self._ranges.append((start, start + matrices[0].in_features))
            pairs = zip(members, matrices, strict=True)
            self._pieces.append([_Piece(*member, matrix.out_features) for member, matrix in pairs])
        self._reads = [len(part.reads) for part in parts]
        self.tails = nn.ModuleList(map(_Tail, parts))
        self.register_buffer("order", order, persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (..., inputs) to (..., outputs)."""
        read = [[inputs] * count for count in self._reads]
        for matrix, (start, stop), pieces in zip(self.readers, self._ranges, self._pieces, strict=True):
            whole = start == 0 and stop == inputs.shape[-1]
            outputs = matrix(inputs if whole else inputs[..., start:stop])
            split = outputs.split([piece.outputs for piece in pieces], dim=-1) if len(pieces) > 1 else [outputs]
            for piece, part_outputs in zip(pieces, split, strict=True):
                read[piece.part][piece.place] = part_outputs
        combined = [tail(tensors) for tail, tensors in zip(self.tails, read, strict=True)]
        return _in_order(_joined(combined), self.order)

    def replace_matrices(self, kind: type[AnyMatrix], make: Callable[[AnyMatrix], nn.Module]) -> None:
        """Put what ``make`` returns in the places of all matrices of a kind, which have no bias."""
        for name, module in list(self.named_modules()):
            if isinstance(module, kind):
                self.set_submodule(name, make(module))


class _Tail(nn.Module):
    """What a part does with the outputs of the matrices that it reads inputs with."""

    order: Tensor | None

    def __init__(self, part: Part) -> None:
        super().__init__()
        self.outer = nn.ModuleList(part.outer)
        self._has_base, self._passes_on = part.base is not None, part.passes_on
        self.register_buffer("order", part.order, persistent=False)

    def forward(self, read: list[Tensor]) -> Tensor:
        """Return (..., outputs of the part)."""
        hidden, *others = read[1:] if self._has_base else read
        for other in others:
            hidden = hidden + other
        pieces = [hidden] if self._passes_on else []
        pieces += [matrix(hidden) for matrix in self.outer]
        outputs = _in_order(_joined(pieces), self.order)
        return read[0] + outputs if self._has_base else outputs


def _joined(pieces: list[Tensor]) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=-1)


def _in_order(outputs: Tensor, order: Tensor | None) -> Tensor:
    if order is None:
        return outputs
    # On a CPU this takes a third of the time of `index_select` along the last dimension.
    return outputs.gather(-1, order.expand(*outputs.shape[:-1], -1))
