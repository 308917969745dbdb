"""One run of a model that shows how it calls its blocks: in which order, with what, and what becomes of the outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from contextvars import Context
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from eckart.blocks.block_arguments import BlockArguments, CallSite, Inputs, replaced_forwards, run_model
from eckart.blocks.carried import Carried, Given, Place, SharedMapping, emptied, is_shared

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Fingerprint = tuple[tuple[Any, ...], ...]
"""Shape, dtype and a sum of each tensor, by which it is seen that two runs hand on the same."""

MOST_LEVELS = 12  # of what is in arguments
HIDDEN_STATES = "hidden_states"  # the name by which hidden states are looked for first, where all are handed by name


@dataclass
class TracedCall:
    """One call of a block.

    Attributes:
        path: of the block.
        module: the block.
        arguments: what it was handed, but for the hidden states.
        enters: whether the hidden states are not just what the block that was called before returned.
        front: the hidden states that it was handed, a copy.
        behind: those that it returned, a copy.
        fingerprint: of all that it was handed; of hidden states, if it enters.
        hands_more: whether it gives later blocks more than hidden states, the same whatever those are.
        more_depends: whether that is another one for other hidden states; looked at where it enters.
        made_of: names of the parameters of the block that what it gives beside hidden states is made of; known where
            that does not depend on those.
        handed: leaves of what it returned that were handed to later blocks, beside the hidden states.
        first: number of the first call of its segment.
        takes_more: whether it was handed a tensor that a block of another segment gave.
        mutates: whether it changed something that it was handed.
        rows: vectors in the hidden states.
    """

    path: str
    module: nn.Module
    arguments: BlockArguments
    enters: bool
    front: Tensor
    behind: Tensor = field(default_factory=lambda: torch.empty(0))
    fingerprint: Fingerprint = ()
    hands_more: bool = False
    more_depends: bool = False
    made_of: frozenset[str] = frozenset()
    handed: set[int] = field(default_factory=set)
    first: int = 0
    takes_more: bool = False
    mutates: bool = False

    @property
    def rows(self) -> int:
        """How many vectors the hidden states are."""
        known = self.front if self.front.numel() else self.behind
        return known.numel() // max(known.shape[-1], 1)


@dataclass(frozen=True)
class Trace:
    """What one run showed.

    Attributes:
        calls: of the blocks, in order.
        counts: how often each module of the model was called, by path.
        output: what the model returned.
        given: what blocks gave to later ones.
    """

    calls: list[TracedCall]
    counts: Mapping[str, int]
    output: Any
    given: Mapping[Carried, Tensor]


Around = Callable[[nn.Module, str], AbstractContextManager[object]]
Look = Callable[[TracedCall], None]


def trace(model: PreTrainedModel, blocks: Mapping[str, nn.Module], inputs: Inputs, around: Around, look: Look) -> Trace:
    """Run a model once.

    Args:
        model: what is not in a block must be where ``inputs`` are.
        blocks: by path; none of them inside another one.
        inputs: of the model.
        around: is entered with a block and its path around each run of it.
        look: is told of each call of a block, inside of that.
    """
    return _Tracer(model, blocks, around, look).run(inputs)


@dataclass(frozen=True)
class _Produced:
    """A tensor that a block gave beside the hidden states: the number of the call, and where it gave it."""

    tensor: Tensor
    call: int
    given: Given


class _Tracer:
    def __init__(self, model: PreTrainedModel, blocks: Mapping[str, nn.Module], around: Around, look: Look) -> None:
        self.model, self.blocks, self.around, self.look = model, dict(blocks), around, look
        self.calls: list[TracedCall] = []
        self.returned: list[tuple[int, Tensor, int]] = []  # by the last block: leaf, tensor, version
        self.last: Any = None
        self.looking = False  # whether blocks are run by who looks at them, and not by the model
        self.produced: dict[int, _Produced] = {}
        self.written: dict[int, Carried] = {}  # by the tensor: into mappings
        self.alive: list[Tensor] = []  # so that an address belongs to one tensor

    def bound(self, call: TracedCall) -> BlockArguments:
        """Return how a block was called, with what earlier blocks gave to it."""
        tensors = {self.written[id(tensor)]: tensor for tensor in self.alive if id(tensor) in self.written}
        return call.arguments.bound(tensors.__getitem__)

    def run(self, inputs: Inputs) -> Trace:
        counts: dict[str, int] = {}

        def count(path: str) -> Callable[..., None]:
            def hook(*_: Any) -> None:
                if not self.looking:
                    counts[path] = counts.get(path, 0) + 1

            return hook

        handles = [module.register_forward_pre_hook(count(path)) for path, module in self.model.named_modules()]
        paths = list(self.blocks)
        try:
            with (
                torch.no_grad(),
                replaced_forwards(self.blocks.values(), lambda index, run: self._forward(paths[index], run)),
            ):
                output = run_model(self.model, inputs)
        finally:
            for handle in handles:
                handle.remove()
        return Trace(self.calls, counts, output, self._given())

    def _given(self) -> dict[Carried, Tensor]:
        """Return what blocks gave to later ones; in each, take note of where it did."""
        found = {self.written[id(tensor)]: tensor for tensor in self.alive}
        for number, call in enumerate(self.calls):
            call.hands_more = bool(call.handed) and call.enters and not call.more_depends
            if call.hands_more:
                continue
            site = call.arguments.site
            for leaf in sorted(call.handed):
                tensor = next(p.tensor for p in self.produced.values() if (p.call, p.given.leaf) == (number, leaf))
                found[Carried(number, len(site.gives))] = tensor
                site = replace(site, gives=(*site.gives, Given(leaf)))
            call.arguments = replace(call.arguments, site=site)
        return found

    def _forward(self, path: str, run: Callable[..., Any]) -> Callable[..., Any]:
        module = self.blocks[path]

        def forward(*args: Any, **kwargs: Any) -> Any:
            # Its own method while it is looked at, since it will be run again and again.
            with self.around(module, path), replaced_forwards([module], lambda _, __: run):
                call = self._begin(path, module, args, kwargs)
                shared = {place: value for place, value in _places(args, kwargs) if is_shared(value)}
                others = tuple(value for place, value in _places(args, kwargs) if place not in shared)
                before, inside = _versions(others), _versions(tuple(shared.values()))
                output = run(*args, **kwargs)
                call.mutates = self._is_changed(call, before, _versions(others), args, kwargs)
                self._take_written(call, shared, inside)
                # In a context of its own: what the model collects of its blocks' outputs is not to hold these runs'.
                Context().run(self._look_at, call, output)
            return output

        return forward

    def _look_at(self, call: TracedCall, output: Any) -> None:
        self.looking = True
        try:
            self._end(call, output)
            # What writes would find in each run what the one before left; what gives nothing is no block.
            if not call.mutates and call.behind.numel():
                site_of = call.arguments
                call.arguments = self.bound(call)
                self.look(call)
                call.arguments = site_of
        finally:
            self.looking = False

    def _begin(self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> TracedCall:
        places = [(place, value) for place, value in _places(args, kwargs) if _can_be_hidden(value)]
        places.sort(key=lambda item: item[0] != HIDDEN_STATES if isinstance(item[0], str) else False)
        place, enters = (places[0][0] if places else None), True
        for leaf, tensor, version in self.returned:
            if places and places[0][1] is tensor and tensor._version == version:
                enters = False
                self._set_output(leaf)
        call = TracedCall(
            path, module, BlockArguments.of(args, kwargs, CallSite(place)), enters, front=_value(place, args, kwargs)
        )
        call.first = self.calls[-1].first if self.calls and not enters else len(self.calls)
        for leaf in tree_leaves((call.arguments.args, dict(call.arguments.kwargs))):
            known = self.produced.get(id(leaf)) if isinstance(leaf, Tensor) else None
            if known is not None:
                self.calls[known.call].handed.add(known.given.leaf)
                call.takes_more |= known.call < call.first
        self._take_shared(call, args, kwargs)
        call.fingerprint = fingerprint_of(call.arguments, call.front if enters else None)
        return call

    def _end(self, call: TracedCall, output: Any) -> None:
        leaves = tree_leaves(output)
        own = {id(leaf) for leaf in tree_leaves((call.arguments.args, dict(call.arguments.kwargs)))}
        self.returned = [(n, leaf, leaf._version) for n, leaf in enumerate(leaves) if _can_be_hidden(leaf)]
        self.last = output
        self.calls.append(call)
        for n, leaf in enumerate(leaves):
            if isinstance(leaf, Tensor) and id(leaf) not in own:
                self.produced.setdefault(id(leaf), _Produced(leaf, len(self.calls) - 1, Given(n)))
        if self.returned:
            self._set_output(self.returned[0][0])
        if (
            call.enters
            and not call.mutates
            and any(isinstance(leaf, Tensor) and id(leaf) in self.produced for leaf in leaves)
        ):
            call.more_depends = self._more_depends(call, leaves)
            call.made_of = frozenset() if call.more_depends else self._made_of(call)

    def _take_shared(self, call: TracedCall, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Take note of what is in mappings that a block is handed, by who put it there."""
        shared: dict[Place, SharedMapping] = {}
        for place, value in _places(args, kwargs):
            if not is_shared(value):
                continue
            leaves = [leaf for leaf in tree_leaves(dict(value)) if isinstance(leaf, Tensor)]
            known = [self.written[id(leaf)] for leaf in leaves if id(leaf) in self.written]
            if leaves and not known:  # the model's own, such as masks by kinds of attention
                continue
            if len(known) < len(leaves):
                call.mutates = True  # nobody knows how to make it again
                continue
            call.takes_more |= any(carried.block < call.first for carried in known)
            shared[place] = SharedMapping(emptied(value), {k: tree_map(self._carried, v) for k, v in value.items()})
        site = replace(call.arguments.site, shared=shared)
        call.arguments = BlockArguments.of(args, kwargs, site)

    def _carried(self, leaf: Any) -> Any:
        return self.written[id(leaf)] if isinstance(leaf, Tensor) else leaf

    def _take_written(self, call: TracedCall, shared: Mapping[Place, Any], before: Mapping[int, int]) -> None:
        """Take note of what a block put into mappings."""
        gives: list[Given] = []
        for place, mapping in shared.items():
            for key, value in mapping.items():
                for n, leaf in enumerate(tree_leaves(value)):
                    if isinstance(leaf, Tensor) and before.get(id(leaf)) != leaf._version:
                        self.written[id(leaf)] = Carried(len(self.calls), len(gives))
                        self.alive.append(leaf)
                        gives.append(Given(n, place, key))
                        call.mutates |= place not in call.arguments.site.shared
        call.arguments = replace(call.arguments, site=replace(call.arguments.site, gives=tuple(gives)))

    def _more_depends(self, call: TracedCall, leaves: Sequence[Any]) -> bool:
        """Return whether what a block gives beside its hidden states is another one for other hidden states."""
        others = tree_leaves(self.bound(call).run(call.module, call.front.flip(-1)))
        return len(others) != len(leaves) or any(
            isinstance(leaf, Tensor) and id(leaf) in self.produced and not torch.equal(leaf, other)
            for leaf, other in zip(leaves, others, strict=True)
        )

    def _made_of(self, call: TracedCall) -> frozenset[str]:
        """Return the names of the parameters that what a block gives beside its hidden states is made of."""
        parameters = {name: p for name, p in call.module.named_parameters() if p.is_floating_point()}
        before = {name: p.requires_grad for name, p in parameters.items()}
        try:
            for parameter in parameters.values():
                parameter.requires_grad_(True)
            with torch.enable_grad():
                leaves = tree_leaves(self.bound(call).run(call.module, call.front.clone()))
                others = [x for n, x in enumerate(leaves) if n != call.arguments.site.output and _can_be_hidden(x)]
                sums = [x.float().sum() for x in others if x.requires_grad]
                if not sums:
                    return frozenset()
                found = torch.autograd.grad(torch.stack(sums).sum(), list(parameters.values()), allow_unused=True)
        except (RuntimeError, AssertionError):  # of a block that has no gradients
            return frozenset()
        finally:
            for name, parameter in parameters.items():
                parameter.requires_grad_(before[name])
        return frozenset(name for name, gradient in zip(parameters, found, strict=True) if gradient is not None)

    def _set_output(self, leaf: int) -> None:
        """Take note which of the leaves that the last block returned is the hidden states."""
        call = self.calls[-1]
        site = call.arguments.site.returning(self.last, leaf, call.arguments.flat()[0])
        call.arguments = replace(call.arguments, site=site)
        call.behind = site.result(self.last).detach().clone()
        self.produced.pop(id(site.result(self.last)), None)

    def _is_changed(
        self,
        call: TracedCall,
        before: Mapping[int, int],
        after: Mapping[int, int],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> bool:
        """Return whether a block wrote into what it was handed, other than the hidden states."""
        place = call.arguments.site.hidden
        own = id(args[place]) if isinstance(place, int) else id(kwargs[place]) if isinstance(place, str) else None
        return {k: v for k, v in before.items() if k != own} != {k: v for k, v in after.items() if k != own}


def _can_be_hidden(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.ndim >= 2


def _places(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[tuple[Place, Any]]:
    """Return all arguments by their places."""
    return [*list[tuple[Place, Any]](enumerate(args)), *kwargs.items()]


def _value(place: int | str | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    if place is None:
        return torch.empty(0)
    found: Tensor = args[place] if isinstance(place, int) else kwargs[place]
    return found.detach().clone()


def _versions(arguments: Any) -> dict[int, int]:
    """Return, for each tensor that can be reached through arguments, how often it was written to."""
    found: dict[int, int] = {}
    todo, depth = [arguments], 0
    while todo and depth < MOST_LEVELS:
        inside: list[Any] = []
        for value in todo:
            if isinstance(value, Tensor):
                found[id(value)] = value._version
            elif isinstance(value, Mapping):
                inside += value.values()
            elif isinstance(value, list | tuple | set):
                inside += value
            elif hasattr(value, "__dict__") and not isinstance(value, nn.Module | type | Callable):
                inside += vars(value).values()
        todo, depth = inside, depth + 1
    return found


def fingerprint_of(arguments: BlockArguments, hidden: Tensor | None) -> Fingerprint:
    """Return the fingerprint of what a block is handed: of hidden states only where they are given."""
    return fingerprint((hidden, arguments.args, dict(arguments.kwargs)))


def fingerprint(tree: Any) -> Fingerprint:
    """Return what two equal trees of tensors have in common."""
    sums: dict[int, tuple[Any, ...]] = {}
    found = []
    for leaf in tree_leaves(tree):
        if isinstance(leaf, Tensor):
            if id(leaf) not in sums:
                sums[id(leaf)] = (tuple(leaf.shape), leaf.dtype, _weighted_sum(leaf))
            found.append(sums[id(leaf)])
    return tuple(found)


def _weighted_sum(tensor: Tensor) -> float:
    """Return a sum that is another one if numbers change their places."""
    values = torch.nan_to_num(tensor.detach().flatten().double(), posinf=1e3, neginf=-1e3).clamp(-1e6, 1e6)
    return float(values @ torch.linspace(1, 2, len(values), dtype=torch.float64, device=values.device))


def same_fingerprints(ours: Sequence[Fingerprint], theirs: Sequence[Fingerprint]) -> int | None:
    """Return the number of the first that differ, to rounding; None if all are the same."""
    for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        same = len(one) == len(other) and all(
            a[:2] == b[:2] and abs(a[2] - b[2]) <= 1e-5 * max(abs(a[2]), abs(b[2]), 1e-3)
            for a, b in zip(one, other, strict=True)
        )
        if not same:
            return number
    return None
