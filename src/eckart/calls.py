"""How a model calls its blocks, so that each can be run alone on hidden states that are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from eckart.errors import UnsupportedModelError


@dataclass(frozen=True)
class BlockCall:
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


def capture_calls(model: PreTrainedModel, blocks: nn.ModuleList, tokens: Tensor) -> tuple[Tensor, list[BlockCall]]:
    """Return what the first block is given for ``tokens`` (batch, length), and how each block is called.

    Only the first block is run; the others hand their input on, so that this costs next to nothing.
    """
    calls: list[BlockCall] = []
    hidden: list[Tensor] = []
    extra_outputs: list[Any] = []

    def record(index: int, run: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            if not args and "hidden_states" not in kwargs:
                raise UnsupportedModelError(
                    f"{type(model).__name__} hands its blocks {sorted(kwargs)}; expected hidden states, as the first "
                    "argument or by that name."
                )
            if not args:
                args = (kwargs.pop("hidden_states"),)
            calls.append(BlockCall(tuple(args[1:]), dict(kwargs)))
            if index == 0:
                hidden.append(args[0])
                output = run(*args, **kwargs)
                extra_outputs.append(output[1:] if isinstance(output, tuple) else None)
                return output
            return args[0] if extra_outputs[0] is None else (args[0], *extra_outputs[0])

        return forward

    with replaced_forwards(blocks, record), torch.no_grad():
        model.base_model(input_ids=tokens, use_cache=False)
    if len(calls) != len(blocks):
        raise UnsupportedModelError(
            f"{type(model).__name__} runs {len(calls)} of its {len(blocks)} blocks in a forward pass; "
            "expected each one exactly once. Layers that are skipped or shared cannot be compressed yet."
        )
    return hidden[0], [replace(call, extra=extra_outputs[0]) for call in calls]


def calls_by_shape(
    model: PreTrainedModel, blocks: nn.ModuleList, batches: Iterable[int], length: int, device: torch.device
) -> list[dict[torch.Size, BlockCall]]:
    """Return how each block is called for sequences of ``length`` tokens, by (batch, length).

    Args:
        model: its embedding and its first block must be on ``device``.
        blocks: of the model.
        batches: how many sequences are run at once.
        length: tokens in each.
        device: where the blocks will be run.
    """
    found: list[dict[torch.Size, BlockCall]] = [{} for _ in blocks]
    for batch in sorted(set(batches)):
        tokens = torch.zeros(batch, length, dtype=torch.int64, device=device)
        for calls, call in zip(found, capture_calls(model, blocks, tokens)[1], strict=True):
            calls[tokens.shape] = call
    return found


def check_calls_are_independent_of_tokens(
    model: PreTrainedModel, blocks: nn.ModuleList, length: int, device: torch.device
) -> None:
    """Raise if blocks are handed tensors that depend on the text, other than hidden states.

    Raises:
        UnsupportedModelError: naming the argument.
    """
    vocabulary = model.get_input_embeddings().num_embeddings
    one = torch.arange(length, device=device)[None] % vocabulary
    flipped = one.flip(1)
    for ours, theirs in zip(
        capture_calls(model, blocks, one)[1], capture_calls(model, blocks, flipped)[1], strict=True
    ):
        others = dict(_named_arguments(theirs))
        for name, value in _named_arguments(ours):
            leaves = zip(tree_leaves(value), tree_leaves(others[name]), strict=True)
            if any(isinstance(leaf, Tensor) and not torch.equal(leaf, other) for leaf, other in leaves):
                raise UnsupportedModelError(
                    f"{type(model).__name__} hands its blocks {name!r}, which depends on the text; "
                    "only hidden states may. Such models cannot be compressed yet."
                )


def _named_arguments(call: BlockCall) -> list[tuple[str, Any]]:
    positional = [(f"argument {index}", value) for index, value in enumerate(call.args, start=2)]
    return positional + list(call.kwargs.items())
