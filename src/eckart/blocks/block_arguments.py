"""How a model calls its blocks, so that each can be run alone on hidden states that are kept."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from eckart.errors import EckartError, UnsupportedModelError


@dataclass(frozen=True)
class BlockArguments:
    """How the model calls one block: everything but the hidden states, which come first.

    Attributes:
        args: behind the hidden states.
        kwargs: by name.
        extra: what a block returns behind the hidden states; None if it returns those alone.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    extra: tuple[Any, ...] | None = None

    def __call__(self, block: Callable[..., Any], hidden: Tensor) -> Tensor:
        """Run ``block`` on hidden states (batch, length, width) and return those that it hands on."""
        output = block(hidden, *self.args, **self.kwargs)
        return cast(Tensor, output[0] if isinstance(output, tuple) else output)

    def handed_on(self, hidden: Tensor) -> Any:
        """Return hidden states in the form in which a block returns them."""
        return hidden if self.extra is None else (hidden, *self.extra)


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
def failures_named(model: PreTrainedModel, length: int | None = None) -> Iterator[None]:
    """Say of a model that fails that it does.

    Args:
        model: that is run inside.
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
        if length is not None:
            raise UnsupportedModelError(f"{name} fails on {length} tokens ({why}). Use a smaller --length.") from error
        raise UnsupportedModelError(
            f"{name} cannot be run on token ids alone ({why}). "
            "Only language models that need nothing else can be compressed yet."
        ) from error


def capture_arguments(
    model: PreTrainedModel, blocks: nn.ModuleList, tokens: Tensor
) -> tuple[Tensor, list[BlockArguments]]:
    """Return what the first block is given for ``tokens`` (batch, length), and how each block is called.

    Only the first block is run; the others hand their input on, so that this costs next to nothing.

    Raises:
        UnsupportedModelError: the model does not run each block once, in order, on hidden states of all tokens.
    """
    arguments: list[BlockArguments] = []
    hidden: list[Tensor] = []
    extra_outputs: list[Any] = []
    name = type(model).__name__

    def record(index: int, run: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            if index != len(arguments):
                raise UnsupportedModelError(
                    f"{name} runs block {index} of its {len(blocks)} where block {len(arguments)} was expected; "
                    "expected each one exactly once, in the order of their list. Models that repeat blocks or leave "
                    "some out cannot be compressed yet."
                )
            if not args and "hidden_states" not in kwargs:
                raise UnsupportedModelError(
                    f"{name} hands its blocks {sorted(kwargs)}; expected hidden states, as the first "
                    "argument or by that name."
                )
            if not args:
                args = (kwargs.pop("hidden_states"),)
            check_hidden(args[0], tokens.shape, f"{name} hands its blocks")
            arguments.append(BlockArguments(tuple(args[1:]), dict(kwargs)))
            if index == 0:
                hidden.append(args[0])
                output = run(*args, **kwargs)
                check_hidden(output[0] if isinstance(output, tuple) else output, tokens.shape, f"{name}'s blocks give")
                extra_outputs.append(output[1:] if isinstance(output, tuple) else None)
                return output
            return args[0] if extra_outputs[0] is None else (args[0], *extra_outputs[0])

        return forward

    with replaced_forwards(blocks, record), torch.no_grad():
        model.base_model(input_ids=tokens, use_cache=False)
    if len(arguments) != len(blocks):
        raise UnsupportedModelError(
            f"{name} runs {len(arguments)} of its {len(blocks)} blocks in a forward pass; "
            "expected each one exactly once. Layers that are skipped or shared, or that are for images or sound, "
            "cannot be compressed yet."
        )
    return hidden[0], [replace(call, extra=extra_outputs[0]) for call in arguments]


def check_hidden(found: Any, shape: torch.Size, what: str) -> None:
    """Raise unless hidden states are one tensor, (batch, length, width).

    Args:
        found: the hidden states.
        shape: (batch, length) of the tokens.
        what: found them, for the error.
    """
    if not isinstance(found, Tensor) or found.ndim != 3 or found.shape[:2] != shape:
        seen = f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise UnsupportedModelError(
            f"{what} {seen} for {shape[0]} texts of {shape[1]} tokens; expected one vector for each token, of shape "
            f"({shape[0]}, {shape[1]}, width). Such models cannot be compressed yet."
        )


def arguments_by_shape(
    model: PreTrainedModel, blocks: nn.ModuleList, batches: Iterable[int], length: int, device: torch.device
) -> list[dict[torch.Size, BlockArguments]]:
    """Return how each block is called for sequences of ``length`` tokens, by (batch, length).

    Args:
        model: its embedding and its first block must be on ``device``.
        blocks: of the model.
        batches: how many sequences are run at once.
        length: tokens in each.
        device: where the blocks will be run.
    """
    found: list[dict[torch.Size, BlockArguments]] = [{} for _ in blocks]
    for batch in sorted(set(batches)):
        tokens = torch.zeros(batch, length, dtype=torch.int64, device=device)
        for arguments, call in zip(found, capture_arguments(model, blocks, tokens)[1], strict=True):
            arguments[tokens.shape] = call
    return found


def check_calls_are_independent_of_tokens(
    model: PreTrainedModel, blocks: nn.ModuleList, length: int, vocabulary: int, device: torch.device
) -> tuple[Tensor, list[BlockArguments]]:
    """Raise if blocks are handed tensors that depend on the text, other than hidden states.

    Args:
        model: its embedding and its first block must be on ``device``.
        blocks: of the model.
        length: tokens that are run.
        vocabulary: ids that there are.
        device: where the blocks will be run.

    Returns:
        What :func:`capture_arguments` does.

    Raises:
        UnsupportedModelError: naming the argument.
    """
    one = torch.arange(length, device=device)[None] % vocabulary
    hidden, ours = capture_arguments(model, blocks, one)
    theirs = capture_arguments(model, blocks, one.flip(1))[1]
    for block, call, other in zip(blocks, ours, theirs, strict=True):
        others = named_arguments(block, other)
        for name, value in named_arguments(block, call).items():
            leaves, other_leaves = tree_leaves(value), tree_leaves(others.get(name))
            same = len(leaves) == len(other_leaves) and all(
                isinstance(there, Tensor) and torch.equal(leaf, there)
                for leaf, there in zip(leaves, other_leaves, strict=True)
                if isinstance(leaf, Tensor)
            )
            if not same:
                raise UnsupportedModelError(
                    f"{type(model).__name__} hands its blocks {name!r}, which depends on the text; "
                    "only hidden states may. Such models cannot be compressed yet."
                )
    return hidden, ours


def named_arguments(block: nn.Module, call: BlockArguments) -> dict[str, Any]:
    """Return what a block is handed beside the hidden states, by the names of its parameters."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [p.name for p in inspect.signature(block.forward).parameters.values() if p.kind in positional][1:]
    names += [f"argument {number + 2}" for number in range(len(names), len(call.args))]
    return {**dict(zip(names, call.args, strict=False)), **call.kwargs}


def run_head(
    model: PreTrainedModel, blocks: nn.ModuleList, call: BlockArguments, tokens: Tensor, hidden: Tensor
) -> Any:
    """Return what the model gives if the last block hands on ``hidden``. No block is run.

    Args:
        model: what is outside of its blocks must be where ``hidden`` is.
        blocks: of the model.
        call: of the last one.
        tokens: (batch, length).
        hidden: (batch, length, width).
    """
    last = len(blocks) - 1

    def stand_in(index: int, _: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            return call.handed_on(hidden if index == last else args[0] if args else kwargs["hidden_states"])

        return forward

    with replaced_forwards(blocks, stand_in):
        return model(input_ids=tokens, use_cache=False)
