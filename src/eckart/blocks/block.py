"""What a model is made of for whoever compresses it: blocks, groups of linears in them, linears."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from torch import nn

from eckart.blocks.block_arguments import CallSite
from eckart.blocks.hidden_units import HiddenUnits
from eckart.blocks.lone_linear import LoneLinear
from eckart.blocks.pairs import Pair, Part


@dataclass(frozen=True)
class LinearRef:
    """A linear layer to be factored.

    Attributes:
        name: inside its block, such as ``self_attn.q_proj``.
        path: inside the model, such as ``model.layers.3.self_attn.q_proj``.
        out_features: m.
        in_features: n.
        has_bias: whether it has one.
        residual: the place of the residual stream that its output is added to (see :mod:`eckart.blocks.residual`); None
            if there is none, or if nobody asked.
        runs: in how many runs its outputs are computed, each an equal share of them; more than one for the linears of
            several experts that are fused.
    """

    name: str
    path: str
    out_features: int
    in_features: int
    has_bias: bool = False
    residual: str | None = None
    runs: int = 1

    @property
    def shape(self) -> tuple[int, int]:
        """(out features, in features)."""
        return self.out_features, self.in_features

    @property
    def size(self) -> int:
        """Numbers in the dense weight."""
        return self.out_features * self.in_features


@dataclass(frozen=True)
class Expert:
    """The expert of a mixture that a group of linears is in.

    Attributes:
        mixture: name in the block of the module that is handed all tokens, and hands the expert some of them.
        path: of the expert in the mixture, such as ``experts.3``.
        inner: whether the group is handed what the expert itself made, such as its hidden units.
        last: name in the block of the linear whose outputs the mixture weighs and adds up.
    """

    mixture: str
    path: str
    inner: bool
    last: str


@dataclass(frozen=True)
class Group:
    """Linears that share an input.

    Attributes:
        linears: the first one is run first.
        runs_once: whether a forward pass calls it exactly once; if it is routed, at most once.
        routed: whether the model chooses which tokens it is handed.
        stage: the same for groups that do not depend on one another; None where nothing is known of that.
        expert: that it is in; None if it is in none, or if nothing is known of what hands it tokens.
        family: the same for routed groups that are handed rows of one tensor, such as the first linears of a block's
            experts; None for others.
        parts: for one linear of several runs, a group for what each run is handed; its first linear has the name of
            the module that is handed it, and no weight of its own.
    """

    linears: tuple[LinearRef, ...]
    runs_once: bool
    routed: bool = False
    stage: str | None = None
    expert: Expert | None = None
    family: str | None = None
    parts: tuple[Group, ...] = ()

    @property
    def apart(self) -> tuple[Group, ...]:
        """Its parts, or itself if it has none."""
        return self.parts or (self,)


class Why(StrEnum):
    """A linear that is run in a block stays as it is."""

    CHOOSES = "chooses experts"
    SHARED = "weight in common with another layer"
    NO_GRADIENTS = "run without gradients"
    HEAD = "not named in the targets"
    HELD = "held outside of the modules, too"
    ALONE = "between no widths that can shrink"


@dataclass(frozen=True)
class Block:
    """One block of a model.

    Attributes:
        path: in the model.
        module: the block.
        groups: of its linears, in order of execution.
        units: between linears, that may be in any order (see :mod:`eckart.blocks.hidden_units`); empty if nobody asked.
        site: where hidden states are in its call.
        enters: whether its hidden states come from the model's own code; else the block before handed them on.
        tapped: whether anything but the block behind it looks at what it gives.
        hands_more: whether it gives other blocks more than hidden states, the same whatever the hidden states are.
        fixed: names of its parameters that training leaves as they are, since what it gives other blocks is made of
            them.
        tower: that it belongs to, such as ``vision`` or ``language``.
        rows: vectors in the hidden states of the sample that it was probed with.
        width: of each.
        causal: whether what it gives in the first place depends on that place alone; known where it enters.
        left: names of the linears that are run and are in no group, and why.
        pairs: of linears, between which a width can shrink (see :mod:`eckart.blocks.pairs`); empty if nobody asked.
    """

    path: str
    module: nn.Module
    groups: tuple[Group, ...]
    units: tuple[HiddenUnits, ...] = ()
    site: CallSite = field(default_factory=CallSite)
    enters: bool = False
    tapped: bool = False
    hands_more: bool = False
    fixed: frozenset[str] = frozenset()
    tower: str = ""
    rows: int = 0
    width: int = 0
    causal: bool = False
    left: Mapping[str, Why] = field(default_factory=dict)
    pairs: tuple[Pair, ...] = ()

    def part(self, name: str) -> Part | None:
        """Return what a linear, by its name in the block, has of a pair; None if it is in none."""
        found = ((number, pair) for number, pair in enumerate(self.pairs) if name in pair.names)
        return next((pair.part(name, number) for number, pair in found), None)

    @property
    def linears(self) -> list[LinearRef]:
        """The linears of all groups, in order of execution."""
        return [ref for group in self.groups for ref in group.linears]

    @property
    def mixtures(self) -> tuple[str, ...]:
        """The names of its mixtures of experts."""
        parts = [part for group in self.groups for part in group.apart]
        return tuple(dict.fromkeys(part.expert.mixture for part in parts if part.expert is not None))

    @property
    def linears_in_mixtures(self) -> list[LinearRef]:
        """The linears on which what experts are handed in a mixture can depend."""
        return [
            ref
            for ref in self.linears
            if any(not mixture or ref.name.startswith(f"{mixture}.") for mixture in self.mixtures)
        ]

    @property
    def called(self) -> nn.Module:
        """The module that the model itself calls."""
        return self.module.layer if isinstance(self.module, LoneLinear) else self.module

    def inside(self, name: str) -> str:
        """Return the path in the model of what is called ``name`` in the block."""
        outer = self.path.rpartition(".")[0] if isinstance(self.module, LoneLinear) else self.path
        return f"{outer}.{name}" if outer else name

    def holds(self, path: str) -> bool:
        """Return whether a module or tensor of the model is this block or is inside it."""
        return not self.path or path == self.path or path.startswith(f"{self.path}.")


@contextmanager
def hooks() -> Iterator[list[Any]]:
    """Give a list for the handles of hooks, and remove them all at the end."""
    handles: list[Any] = []
    try:
        yield handles
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def attributes_kept(module: nn.Module) -> Iterator[None]:
    """Give a module and those inside it back the attributes that they had.

    Some keep what they computed for their next run. With the graph of its gradients it cannot be copied.
    """
    before = [(part, dict(vars(part))) for part in module.modules()]
    try:
        yield
    finally:
        for part, attributes in before:
            vars(part).clear()
            vars(part).update(attributes)
