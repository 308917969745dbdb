"""Rankings of numbers in a run, such as a router's choice of experts, and the same choices in another run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

# Functions of torch, by their names, that rank floats, and the place of the dimension in their arguments.
RANKING: Mapping[str, int] = {
    "topk": 2,
    "sort": 1,
    "argsort": 1,
    "argmax": 1,
    "max": 1,
    "kthvalue": 2,
}


class OtherRankingsError(Exception):
    """A run does not rank what the run did whose choices it was to make."""


class Rankings(TorchFunctionMode):
    """Takes note of the numbers that rankings of floats give in a run; or gives those of another run.

    Args:
        known: what the rankings of another run gave, in order.
    """

    def __init__(self, known: Sequence[Tensor] | None = None) -> None:
        super().__init__()
        self.known = known
        self.found: list[Tensor] = []

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run a function; if it ranks floats, take note of its result or replace that."""
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        name = getattr(function, "__name__", "")
        if name not in RANKING or not args or not isinstance(args[0], Tensor) or not args[0].is_floating_point():
            return result
        chosen = _numbers(result)
        if chosen is None:  # the largest one of all, and not where it is
            return result
        if self.known is None:
            self.found.append(chosen)
            return result
        if len(self.found) == len(self.known) or self.known[len(self.found)].shape != chosen.shape:
            raise OtherRankingsError
        chosen = self.known[len(self.found)]
        self.found.append(chosen)
        if isinstance(result, Tensor):
            return chosen
        place = RANKING[name]
        dimension = kwargs.get("dim", args[place] if len(args) > place else -1)
        return type(result)((_at(args[0], chosen, dimension), chosen))


def _numbers(result: Any) -> Tensor | None:
    """Return the whole numbers in what a ranking gave."""
    for tensor in (result,) if isinstance(result, Tensor) else tuple(result):
        if isinstance(tensor, Tensor) and tensor.dtype == torch.int64:
            return tensor
    return None


def _at(values: Tensor, numbers: Tensor, dimension: int) -> Tensor:
    """Return the values at numbers along a dimension, which may be missing in ``numbers``."""
    if numbers.ndim < values.ndim:
        return values.gather(dimension, numbers.unsqueeze(dimension)).squeeze(dimension)
    return values.gather(dimension, numbers)
