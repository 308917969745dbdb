"""How a model calls its blocks, so that each can be run alone on hidden states that are kept."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_unflatten

from eckart.blocks.carried import Carried, Given, Place, SharedMapping
from eckart.data.samples import IDS, LABELS
from eckart.device import seed_generators
from eckart.errors import EckartError, UnsupportedModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Inputs = Mapping[str, Tensor]
"""What the forward of a model is handed, by name."""

DECODER_IDS = "decoder_input_ids"


@dataclass(frozen=True)
class CallSite:
    """Where the hidden states are in what a block is handed, and in what it returns.

    Attributes:
        hidden: number of the argument, or its name; None for a block that is handed none.
        output: number of the hidden states among the leaves of what the block returns.
        returns: the form of what it returns; None for the hidden states alone.
        others: its leaves, None in the place of each tensor.
        passed: leaves that are what the block was handed, by their numbers, and the numbers of those in the arguments.
        gives: where the block gives tensors that later blocks of its segment are handed.
        shared: mappings among the arguments that blocks write into, by place, with what is in them.
    """

    hidden: int | str | None = 0
    output: int = 0
    returns: TreeSpec | None = None
    others: tuple[Any, ...] = (None,)
    passed: tuple[tuple[int, int], ...] = ()
    gives: tuple[Given, ...] = ()
    shared: Mapping[Place, SharedMapping] = field(default_factory=dict)

    def result(self, output: Any) -> Tensor:
        """Return the hidden states in what a block returned."""
        found = tree_leaves(output)[self.output]
        assert isinstance(found, Tensor)
        return found

    def handed_on(
        self, hidden: Tensor, others: tuple[Any, ...] | None = None, arguments: list[Any] | None = None
    ) -> Any:
        """Return hidden states in the form in which the block returns them.

        Args:
            hidden: to hand on.
            others: leaves of what the block returned, for what is not hidden states.
            arguments: leaves of what it was handed, of which it may hand on some as they are.
        """
        if self.returns is None:
            return hidden
        leaves = list(self.others if others is None else others)
        if others is None and arguments is not None:
            for leaf, number in self.passed:
                leaves[leaf] = arguments[number]
        leaves[self.output] = hidden
        return tree_unflatten(leaves, self.returns)

    def returning(self, output: Any, hidden: int, arguments: list[Any]) -> CallSite:
        """Return the same for a block that returned ``output``, whose hidden states are the leaf ``hidden``.

        Args:
            output: of the block.
            hidden: number of the leaf.
            arguments: leaves of what it was handed, without the hidden states.
        """
        leaves, form = tree_flatten(output)
        others = tuple(None if isinstance(leaf, Tensor) else leaf for leaf in leaves)
        places = {id(value): number for number, value in enumerate(arguments) if isinstance(value, Tensor)}
        passed = tuple((n, places[id(leaf)]) for n, leaf in enumerate(leaves) if id(leaf) in places)
        returns = None if isinstance(output, Tensor) else form
        return replace(self, output=hidden, returns=returns, others=others, passed=passed)


@dataclass(frozen=True)
class BlockArguments:
    """How the model calls one block for some sequences.

    Attributes:
        args: by position; None in the place of the hidden states.
        kwargs: by name, without the hidden states.
        site: where those belong.
        slots: a number for each leaf of both, the same where several blocks are handed the same tensor.
        carried: what earlier blocks of the segment gave, once it is known.
        unbound: the same call before it was.
    """

    args: tuple[Any, ...] = (None,)
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    site: CallSite = field(default_factory=CallSite)
    slots: tuple[int, ...] = ()
    carried: Mapping[Carried, Tensor] = field(default_factory=dict)
    unbound: BlockArguments | None = None

    @staticmethod
    def of(args: tuple[Any, ...], kwargs: Mapping[str, Any], site: CallSite) -> BlockArguments:
        """Return what a block was handed, but for the hidden states; of shared mappings, what is to be put in them."""

        def kept(place: Place, value: Any) -> Any:
            return None if place == site.hidden else site.shared.get(place, value)

        given = {place: kept(place, value) for place, value in kwargs.items() if place != site.hidden}
        call = BlockArguments(tuple(kept(n, value) for n, value in enumerate(args)), given, site)
        return replace(call, slots=tuple(range(len(call.flat()[0]))))

    def __call__(self, block: Callable[..., Any], hidden: Tensor) -> Tensor:
        """Run ``block`` on hidden states (..., width) and return those that it hands on."""
        return self.site.result(self.run(block, hidden))

    def run(self, block: Callable[..., Any], hidden: Tensor) -> Any:
        """Run ``block`` on hidden states and return all that it returns."""
        args, kwargs, place = list(self.args), dict(self.kwargs), self.site.hidden
        if isinstance(place, int):
            args[place] = hidden
        elif isinstance(place, str):
            kwargs[place] = hidden
        return block(*args, **kwargs)

    def flat(self) -> tuple[list[Any], TreeSpec]:
        """Return the leaves of the arguments, and their form."""
        return tree_flatten((self.args, dict(self.kwargs)))

    def given(self, output: Any) -> list[Tensor]:
        """Return the tensors that the block gave to later ones in its last run, which returned ``output``."""
        handed: dict[Place, Any] = dict(enumerate(self.args))
        handed.update(self.kwargs)
        return [place.of(output, handed) for place in self.site.gives]

    def needs(self) -> list[Carried]:
        """Return what it needs of earlier blocks."""
        inside = [leaf for mapping in self._mappings() for leaf in tree_leaves(dict(mapping.contents))]
        return [leaf for leaf in (*self.flat()[0], *inside) if isinstance(leaf, Carried)]

    def _mappings(self) -> list[SharedMapping]:
        return [value for value in (*self.args, *self.kwargs.values()) if isinstance(value, SharedMapping)]

    def bound(self, tensor: Callable[[Carried], Tensor]) -> BlockArguments:
        """Return the same call with what earlier blocks gave, by a function that returns it."""
        needed = list(dict.fromkeys(self.needs()))
        if not needed and not self._mappings():
            return self
        tensors = {carried: tensor(carried) for carried in needed}
        leaves = [tensors[leaf] if isinstance(leaf, Carried) else leaf for leaf in self.flat()[0]]
        call = self.with_leaves(leaves)

        def filled(value: Any) -> Any:
            return value.filled(tensors.__getitem__) if isinstance(value, SharedMapping) else value

        args, kwargs = tuple(map(filled, call.args)), {name: filled(value) for name, value in call.kwargs.items()}
        return replace(call, args=args, kwargs=kwargs, carried=tensors, unbound=self)

    def with_leaves(self, leaves: list[Any]) -> BlockArguments:
        """Return the same call with other leaves."""
        args, kwargs = tree_unflatten(leaves, self.flat()[1])
        return replace(self, args=args, kwargs=kwargs)

    def differentiable(self) -> tuple[BlockArguments, dict[int | Carried, Tensor]]:
        """Return the same call, and its tensors of floats as leaves whose gradients can be asked for.

        They are found by slot; those that earlier blocks of the segment gave, by what they are.
        """
        carried = {key: _leaf_of(tensor) for key, tensor in self.carried.items()}
        found: dict[int | Carried, Tensor] = {}
        plain = self.unbound or self
        leaves = plain.flat()[0]
        for number, (leaf, slot) in enumerate(zip(leaves, plain.slots, strict=True)):
            if isinstance(leaf, Tensor) and leaf.is_floating_point():
                leaves[number] = found.setdefault(slot, _leaf_of(leaf))
        call = plain.with_leaves(leaves).bound(carried.__getitem__)
        return call, {**found, **{key: leaf for key, leaf in carried.items() if leaf.requires_grad}}

    def named(self, block: nn.Module) -> dict[str, Any]:
        """Return what the block is handed beside the hidden states, by the names of its parameters."""
        positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        names = [p.name for p in inspect.signature(block.forward).parameters.values() if p.kind in positional]
        names += [f"argument {number + 1}" for number in range(len(names), len(self.args))]
        found = {name: value for number, (name, value) in enumerate(zip(names, self.args, strict=False))}
        if isinstance(self.site.hidden, int):
            found.pop(names[self.site.hidden])
        return {**found, **self.kwargs}


def _leaf_of(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_(tensor.is_floating_point())


@contextmanager
def replaced_forwards(
    modules: Iterable[nn.Module], replace: Callable[[int, Callable[..., Any]], Callable[..., Any]]
) -> Iterator[None]:
    """Give modules other forward methods, and their own back at the end.

    Args:
        modules: to change.
        replace: makes the new method of a module from its number and its own one.
    """
    modules = list(modules)
    before = [vars(module).get("forward") for module in modules]
    try:
        for index, module in enumerate(modules):
            module.forward = replace(index, module.forward)
        yield
    finally:
        for module, forward in zip(modules, before, strict=True):
            if forward is None:
                vars(module).pop("forward", None)
            else:
                module.forward = forward


@contextmanager
def failures_named(model: PreTrainedModel, inputs: Inputs, length: int | None = None) -> Iterator[None]:
    """Say of a model that fails that it does.

    Args:
        model: that is run inside.
        inputs: that it is run on.
        length: tokens that it is run on, if it was run on fewer before; None if it was not run at all.

    Raises:
        UnsupportedModelError: with the reason.
    """
    try:
        yield
    except EckartError:
        raise
    except Exception as error:  # what a model raises that wants something else can be anything
        name, why = type(model).__name__, f"{type(error).__name__}: {error}"
        if length is not None and model.main_input_name in inputs:  # else it was run on something else before
            raise UnsupportedModelError(f"{name} fails on {length} tokens ({why}). Use a smaller --length.") from error
        raise UnsupportedModelError(
            f"{name} cannot be run on {', '.join(sorted(inputs))} alone ({why}). Calibrate on samples that hold all "
            "that its forward needs: calibration=[{name: tensor, ...}, ...]."
        ) from error


def body_of(model: PreTrainedModel, inputs: Inputs, blocks: Iterable[str] = ()) -> PreTrainedModel:
    """Return the model without its head over the vocabulary, if it has one and the rest can be run by itself.

    Args:
        model: as a whole.
        inputs: of it.
        blocks: paths of those that are to be run.
    """
    body, prefix = model.base_model, model.base_model_prefix
    outside = any(path != prefix and not path.startswith(f"{prefix}.") for path in blocks)
    if body is model or model.get_output_embeddings() is None or outside:
        return model
    return body if inputs.keys() <= inspect.signature(body.forward).parameters.keys() else model


def run_model(model: PreTrainedModel, inputs: Inputs) -> Any:
    """Return what a model gives; it keeps no cache of keys and values, and what it draws is the same in each run."""
    kwargs: dict[str, Any] = dict(inputs)
    if "use_cache" in inspect.signature(model.forward).parameters:
        kwargs["use_cache"] = False
    with _no_cache(model), torch.random.fork_rng(devices=[]):
        seed_generators(0)
        return model(**kwargs)


@contextmanager
def _no_cache(model: PreTrainedModel) -> Iterator[None]:
    """Let parts of the model keep no cache that are told so by their configuration only."""
    # What modules hold themselves: to ask a module for what it has not takes ten times as long.
    configs = {id(held): held for module in model.modules() if (held := vars(module).get("config")) is not None}
    caching = [config for config in configs.values() if getattr(config, "use_cache", False)]
    for config in caching:
        config.use_cache = False
    try:
        yield
    finally:
        for config in caching:
            config.use_cache = True


def completed(model: PreTrainedModel, inputs: Inputs) -> Inputs:
    """Return the inputs of an encoder-decoder with those of the decoder: the labels, one place later.

    Where there are no labels either, it is to give back the text that it is handed.
    """
    if not getattr(model.config, "is_encoder_decoder", False) or DECODER_IDS in inputs:
        return inputs
    labels = inputs.get(LABELS, inputs.get(IDS))
    named = (getattr(model.config, name, None) for name in ("decoder_start_token_id", "pad_token_id"))
    start = next((token for token in named if isinstance(token, int)), 0)
    if labels is None:
        rows = len(next(iter(inputs.values())))
        return {**inputs, DECODER_IDS: torch.full((rows, 1), start, dtype=torch.int64)}
    shifted = labels.roll(1, dims=1).clone()
    shifted[:, 0] = start
    return {**inputs, DECODER_IDS: shifted.clamp_min(0), LABELS: labels}


def inputs_on(device: torch.device, inputs: Inputs, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the inputs of a model on a device, numbers with a point in the dtype of the model."""
    return {
        name: tensor.to(device, dtype) if tensor.is_floating_point() else tensor.to(device)
        for name, tensor in inputs.items()
    }
