"""Follows a few tokens through the original and the compressed model, to record how the two drift apart."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from eckart.blocks.block import Block, LinearRef, hooks
from eckart.blocks.mixture_run import lending, watched
from eckart.blocks.onload import OnloadedModule
from eckart.blocks.passes import BlockPass
from eckart.blocks.rankings import OtherRankingsError
from eckart.blocks.tensor_cache import TensorCache
from eckart.files.field_types import Label
from eckart.layers import weight_matrix

# Tokens whose hidden states are followed through both models: enough for means over tokens, and few beside those of a
# calibration, so that recipes which look at one model only can afford to follow them too.
FOLLOWED_SAMPLES, FOLLOWED_LENGTH = 2, 128


class DriftError(BaseModel):
    """How far outputs of the compressed model are from those of the original one, each in its own model.

    Attributes:
        relative: mean over tokens of ``||y' - y|| / ||y||``. A mean of ratios, since in many language models one token
            is a thousand times the others, and would be all that a ratio of sums tells of.
        cosine: mean over tokens of ``1 - cos(y', y)``.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    relative: float
    cosine: float


class BlockDrift(BaseModel):
    """Errors in one block after its refinement, on the first calibration tokens.

    Attributes:
        path: of the block.
        output: of the hidden states behind it.
        layers: of the outputs of its target linears, by path, those that stayed dense too. An error is None where it
            is not finite, or where the two models hand a layer different tokens and nobody knows which. Of an expert
            it is that of the tokens that the compressed model hands it.
    """

    model_config = ConfigDict(frozen=True)

    path: Label
    output: DriftError | None
    layers: dict[str, DriftError | None]


def drift_error(original: Tensor, compressed: Tensor) -> DriftError | None:
    """Compare two lists of vectors, (..., width) in any float dtype; None if there is no number that tells of them."""
    if original.shape != compressed.shape or not original.numel():
        return None
    y, other = original.flatten(0, -2).double(), compressed.flatten(0, -2).double()
    sizes, others = y.norm(dim=1), other.norm(dim=1)
    known = sizes > 0  # of a vector of zeros there is no relative error
    if not known.any():
        return None
    relative = ((other - y).norm(dim=1)[known] / sizes[known]).mean()
    # A vector of zeros has no direction; it counts as one that is at right angles.
    products = (sizes * others)[known]
    cosine = (1 - (y * other).sum(dim=1)[known] / torch.where(products > 0, products, 1.0)).clamp_min(0).mean()
    if not (torch.isfinite(relative) and torch.isfinite(cosine)):
        return None
    return DriftError(relative=float(relative), cosine=float(cosine))


@dataclass(frozen=True)
class FollowedTokens:
    """Hidden states of the few tokens that are followed through both models, in front of one block.

    Args:
        cache: of the original model's, batch by batch, and behind them as many of the compressed model's.
    """

    cache: TensorCache

    @classmethod
    def of(cls, cache: TensorCache, original: Sequence[Tensor], compressed: Sequence[Tensor]) -> FollowedTokens:
        """Put hidden states into an empty cache, those of each batch (..., width)."""
        for hidden in (*original, *compressed):
            cache.append(hidden)
        return cls(cache)

    @property
    def original(self) -> Sequence[Tensor]:
        """Of the original model."""
        return self.cache[: len(self.cache) // 2]

    @property
    def compressed(self) -> Sequence[Tensor]:
        """Of the model as it is compressed so far."""
        return self.cache[len(self.cache) // 2 :]


@dataclass(frozen=True)
class Outputs:
    """What a pass through a block gave.

    Attributes:
        hidden: behind the block, batch by batch, (..., width).
        layers: outputs of each target linear that was run.
        mixtures: hidden states that mixtures of experts were handed, batch by batch, by their names in the block.
        pairs: of linears in experts, what the original ones give for the tokens of ``layers``, where it is known.
        orders: in which the outputs of some linears are, (out features,) each.
    """

    hidden: Sequence[Tensor]
    layers: dict[LinearRef, Tensor]
    mixtures: Mapping[str, Sequence[Tensor]] = field(default_factory=dict)
    pairs: Mapping[LinearRef, Tensor] = field(default_factory=dict)
    orders: Mapping[LinearRef, Tensor] = field(default_factory=dict)

    def reordered(self, orders: Mapping[LinearRef, Tensor]) -> Outputs:
        """Return the same with the outputs of some linears in another order, (out features,) each."""
        moved = {ref: self.layers[ref][:, order] for ref, order in orders.items() if ref in self.layers}
        return replace(self, layers={**self.layers, **moved}, orders=orders)


def outputs_of(
    block: Block,
    run: BlockPass,
    hidden: Sequence[Tensor],
    original: Outputs | None = None,
    linears: Mapping[str, nn.Module] = MappingProxyType({}),
) -> Outputs:
    """Run a block as it is now on hidden states, batch by batch, (..., width) in the stored dtype.

    Args:
        block: to run.
        run: how.
        hidden: in front of it.
        original: what the original block gave in the original model, for pairs of what experts give.
        linears: of the original block in its mixtures, by name.
    """
    seen: dict[LinearRef, list[Tensor]] = {}
    pairs: dict[LinearRef, list[Tensor]] = {}
    mixtures: dict[str, list[Tensor]] = {}
    behind: list[Tensor] = []
    for batch, (call, given) in enumerate(run.over(hidden)):
        with watched(block.module, block.groups, weigh=False) as watch, _recording(block, block.linears, seen):
            behind.append(run.run(batch, call, given))
        for name, mixture in watch.items():
            mixtures.setdefault(name, []).append(mixture.hidden)
            if original is not None and name in original.mixtures:
                experts = (group for group in block.groups if group.expert and group.expert.mixture == name)
                refs = [ref for group in experts for ref in group.linears]
                with lending(block.module, linears), _recording(block, refs, pairs), suppress(OtherRankingsError):
                    mixture.again(original.mixtures[name][batch])
    return Outputs(
        behind,
        {ref: torch.cat(parts) for ref, parts in seen.items()},
        mixtures,
        {ref: torch.cat(parts) for ref, parts in pairs.items()},
    )


@contextmanager
def _recording(block: Block, refs: Sequence[LinearRef], outputs: dict[LinearRef, list[Tensor]]) -> Iterator[None]:
    """Add to ``outputs`` what linears of a block give in the runs inside, (tokens, out features)."""

    def record(ref: LinearRef) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        def hook(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            outputs.setdefault(ref, []).append(output.detach().flatten(0, -2))

        return hook

    with hooks() as handles, torch.no_grad():
        for ref in refs:
            handles.append(block.module.get_submodule(ref.name).register_forward_hook(record(ref)))
        yield


@contextmanager
def original_weights(onloaded: OnloadedModule) -> Iterator[None]:
    """Let the linears of a block that is onloaded with other weights have their own."""
    lent = {name: weight_matrix(onloaded.module.get_submodule(name)).detach() for name in onloaded.originals}
    before = {name: weight.clone() for name, weight in lent.items()}
    for name, weight in lent.items():
        weight.copy_(onloaded.originals[name])
    try:
        yield
    finally:
        for name, weight in lent.items():
            weight.copy_(before[name])


def original_linears(onloaded: OnloadedModule, refs: Sequence[LinearRef], *, copied: bool) -> dict[str, nn.Module]:
    """Return linears of a block by name, with their own weights where others stand in their place.

    Args:
        onloaded: the block.
        refs: the linears.
        copied: whether the block's own ones may be changed later.
    """
    linears: dict[str, nn.Module] = {}
    for ref in refs:
        linear = onloaded.module.get_submodule(ref.name)
        linears[ref.name] = copy.deepcopy(linear) if copied or ref.name in onloaded.originals else linear
        if ref.name in onloaded.originals:
            weight_matrix(linears[ref.name]).detach().copy_(onloaded.originals[ref.name])
    return linears


def _rows(batches: Sequence[Tensor]) -> Tensor:
    """Return (tokens, width); (numbers, 1) where samples differ in the width, such as scores of pairs of tokens."""
    widths = {batch.shape[-1] for batch in batches}
    width = widths.pop() if len(widths) == 1 else 1
    return torch.cat([batch.reshape(-1, width) for batch in batches])


def compare(block: Block, original: Outputs, compressed: Outputs) -> BlockDrift:
    """Return how far the outputs of a block in the compressed model are from those in the original one."""
    routed = {ref for group in block.groups if group.routed for ref in group.linears}
    expected = {ref: output for ref, output in original.layers.items() if ref not in routed}
    for ref, output in compressed.pairs.items():
        expected[ref] = output[:, original.orders[ref]] if ref in original.orders else output
    return BlockDrift(
        path=block.path,
        output=drift_error(_rows(original.hidden), _rows(compressed.hidden)),
        layers={
            ref.path: drift_error(expected[ref], compressed.layers[ref])
            if ref in expected and ref in compressed.layers
            else None
            for ref in {**original.layers, **compressed.pairs}
        },
    )
