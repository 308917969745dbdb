"""A size for the key-value cache beside that of the weights: which layers give keys and values, and what they keep."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache

from eckart.blocks.discovery import block_lists, trace_probe
from eckart.blocks.onload import WeightSource
from eckart.blocks.probe import probe_inputs
from eckart.blocks.trace import TracedCall
from eckart.cache.sources import linears_below
from eckart.errors import EckartError
from eckart.layers import is_linear, weight_matrix
from eckart.methods.layout import BYTES_PER_NUMBER, Layout
from eckart.methods.recipe import Recipe
from eckart.methods.targets import Named, assign, in_all_blocks

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class CachedLinear:
    """A layer whose output is kept in the cache, as keys or values.

    Attributes:
        path: in the model.
        shape: of its weight, (out features, in features).
        width: numbers a token that are kept of it.
        classes: names of its class, and of those of all modules around it.
    """

    path: str
    shape: tuple[int, int]
    width: int
    classes: frozenset[str] = frozenset()


def with_cache_share(recipe: Recipe, share: float, linears: list[CachedLinear]) -> str:
    """Return the override of a recipe by which latents take a share of the cache.

    The layers that give keys and values get a size of their own, at which their ranks sum to that share of what they
    give. Which has how many is up to the allocation.

    Args:
        recipe: that factors them.
        share: of the numbers in the cache, in (0, 1).
        linears: that give keys and values.

    Raises:
        EckartError: the recipe gives them no latents, or latents of that share would take more bytes than the layers.
    """
    if recipe.pairs.narrows:
        raise EckartError(
            f"Recipe {recipe.name!r} shrinks widths between linears and factors none, so that keys and values have no "
            "latents of their own. Take one that factors, such as eckart-fast, or leave out the size of the cache."
        )
    _check_free(recipe, linears)
    layout = recipe.layout
    narrowest = min(linear.width for linear in linears)
    if share * narrowest < 1:
        raise EckartError(
            f"A share of {share:g} is less than one of the {narrowest} numbers that a layer keeps a token. Use "
            f"{1 / narrowest:.3g} or more."
        )
    if not layout.structure.layer.has_latents:
        raise EckartError(
            f"Recipe {recipe.name!r} puts weights of few bits beside its factors, and layers that have those keep no "
            "latents. Take one that factors alone, such as eckart-fast, or leave out the size of the cache."
        )
    if not layout.structure.latents_are_ranks:
        raise EckartError(
            f"Recipe {recipe.name!r} keeps columns of weights whole, and layers that have those keep more latents than "
            "their rank. Take one that factors alone, such as eckart-fast, or leave out the size of the cache."
        )
    kept = dense = 0
    for linear in linears:
        outputs, inputs = linear.shape
        rank = max(1, min(round(share * linear.width), layout.highest_rank(outputs, inputs)))
        kept += layout.bytes(outputs, inputs, rank)
        dense += BYTES_PER_NUMBER * outputs * inputs
    if kept >= dense:
        least = _highest_share(layout, linears)
        raise EckartError(
            f"Factors that keep {share:g} of the cache take more bytes than the layers that they stand for. Use a "
            f"share below {least:.2f}, or keep the cache as it is."
        )
    patterns = dict.fromkeys(in_all_blocks(linear.path) for linear in linears)
    return f"targets.'{'|'.join(patterns)}'.keep={kept / dense:.6g}"


def _check_free(recipe: Recipe, linears: list[CachedLinear]) -> None:
    """Raise if the recipe says something of the layers that are to get a size of their own."""
    named = [Named(linear.path, linear.classes) for linear in linears]
    said = assign(recipe.targets, (), named)
    taken = sorted({*said.own, *said.left})
    if taken:
        raise EckartError(
            f"The recipe's targets (--only, --ignore or --set targets) say what becomes of {in_all_blocks(taken[0])}, "
            "which gives keys or values. Leave that out, or the share of the cache."
        )


def check_cache_share(share: float | None) -> None:
    """Raise unless it is a share of the cache that can be kept, or None.

    Raises:
        EckartError: says which can.
    """
    if share is not None and not (isinstance(share, int | float) and 0 < share < 1):
        raise EckartError(f"The share of the cache to keep is above 0 and below 1; found {share!r}.")


def cached_linears(model: PreTrainedModel, weights: WeightSource) -> list[CachedLinear]:
    """Return the layers whose outputs a model keeps in its cache, found by numbers in one run.

    Args:
        model: not compressed.
        weights: where its tensors are.

    Raises:
        EckartError: no layer gives keys or values to a cache.
    """
    blocks = {f"{path}.{number}": block for path, listed in block_lists(model) for number, block in enumerate(listed)}
    found: dict[str, list[CachedLinear]] = {}

    def look(call: TracedCall) -> None:
        if call.path not in found:
            found[call.path] = [
                replace(linear, path=f"{call.path}.{linear.path}") for linear in _cached_in(call.module, call)
            ]

    trace_probe(model, weights, probe_inputs(model), blocks, look)
    linears = [linear for listed in found.values() for linear in listed]
    if not linears:
        raise EckartError(f"No linear layer of {type(model).__name__} gives keys or values to a cache that grows.")
    return [replace(linear, classes=_classes_around(model, linear.path)) for linear in linears]


def _classes_around(model: nn.Module, path: str) -> frozenset[str]:
    parts = path.split(".")
    return frozenset(type(model.get_submodule(".".join(parts[:end]))).__name__ for end in range(1, len(parts) + 1))


class _Seen(DynamicCache):  # type: ignore[misc]
    """A cache that remembers what it was handed."""

    def __init__(self) -> None:
        super().__init__()
        self.handed: list[tuple[Tensor, Tensor]] = []

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Remember and return both."""
        self.handed.append((key_states.clone(), value_states.clone()))
        return key_states, value_states


def _cached_in(block: nn.Module, call: TracedCall) -> Iterator[CachedLinear]:
    place = _place_of_cache(block)
    if place is None:
        return
    number, name = place

    def handed() -> list[tuple[Tensor, Tensor]]:
        cache, args, kwargs = _Seen(), list(call.arguments.args), dict(call.arguments.kwargs)
        if number < len(args):
            args[number] = cache
        else:
            kwargs[name] = cache
        with torch.no_grad():
            replace(call.arguments, args=tuple(args), kwargs=kwargs).run(block, call.front.clone())
        return cache.handed

    expected = handed()
    if len(expected) != 1:
        return
    widths = [side.shape[1] * side.shape[3] for side in expected[0]]
    attentions = [path for path, module in block.named_modules() if path and hasattr(module, "layer_idx")]
    for path in linears_below(block):
        linear = block.get_submodule(path)
        if not is_linear(linear) or not any(path.startswith(f"{attention}.") for attention in attentions):
            continue
        with _zeroed(linear):
            found = handed()
        changed = [not torch.equal(ours, theirs) for ours, theirs in zip(found[0], expected[0], strict=True)]
        if any(changed):
            outputs, inputs = weight_matrix(linear).shape
            yield CachedLinear(path, (outputs, inputs), sum(w for w, side in zip(widths, changed, strict=True) if side))


def _place_of_cache(block: nn.Module) -> tuple[int, str] | None:
    """Return the number and the name of the argument that a block takes a cache by; its name differs by the class."""
    for number, (name, parameter) in enumerate(inspect.signature(block.forward).parameters.items()):
        if "Cache" in str(parameter.annotation):
            return number, name
    return None


@contextmanager
def _zeroed(linear: nn.Module) -> Iterator[None]:
    handle = linear.register_forward_hook(lambda _, args, output: torch.zeros_like(output))
    try:
        yield
    finally:
        handle.remove()


def _highest_share(layout: Layout, linears: list[CachedLinear]) -> float:
    """Return the share from which on factors take more bytes than the layers."""
    shares = []
    for linear in linears:
        outputs, inputs = linear.shape
        largest = layout.largest_rank(outputs, inputs, BYTES_PER_NUMBER * outputs * inputs - 1)
        shares.append((largest or 0) / linear.width)
    return min(shares)
