"""Whether the blocks of a model can be run one at a time, and whose outputs must be kept for that."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from eckart.blocks.block import Block
from eckart.blocks.block_arguments import Inputs, body_of
from eckart.blocks.carried import Carried
from eckart.blocks.entrance import enter, run_outside, segment_of
from eckart.blocks.losses import predictions
from eckart.blocks.trace import Fingerprint, Trace, fingerprint, fingerprint_of, same_fingerprints
from eckart.errors import UnsupportedModelError
from eckart.layers import is_linear

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Around = Callable[[nn.Module, str], AbstractContextManager[object]]


def inseparable(traced: Trace, known: Mapping[str, object]) -> str | None:
    """Return the path of a block that cannot be run alone, as one run shows; None if all can.

    Args:
        traced: the run.
        known: by path, what was found in blocks; one without is none.

    Raises:
        UnsupportedModelError: no block was run.
    """
    if not traced.calls:
        raise UnsupportedModelError("The model runs none of its blocks on these inputs.")
    seen: set[int] = set()
    for call in traced.calls:
        # A layer that two blocks share can only be replaced once.
        own = {id(call.module)} | {id(module) for module in call.module.modules() if is_linear(module)}
        again = bool(own & seen)
        seen |= own
        gives_nothing = not call.behind.numel()
        if again or gives_nothing or call.takes_more or call.mutates:
            return call.path
    return None


def tapped_blocks(
    model: PreTrainedModel, blocks: Sequence[Block], traced: Trace, inputs: Inputs, around: Around
) -> tuple[set[int], str | None]:
    """Return the numbers of the blocks whose outputs the model's own code looks at.

    Those are found by numbers: with what they gave, and nothing of other blocks, all blocks are handed what they were.

    Args:
        model: what is not in its blocks is where ``inputs`` are.
        blocks: of the model, their taps unknown.
        traced: the run that they were found in.
        inputs: of that run.
        around: is entered where a block itself is run.

    Returns:
        The numbers, and None; or nothing, and the path of a block that cannot be run alone.
    """
    given = {number: call.behind for number, call in enumerate(traced.calls)}
    wanted = [call.fingerprint for call in traced.calls]
    body = body_of(model, inputs, [block.path for block in blocks])

    def runs_with(outputs: Mapping[int, Tensor]) -> int | None:
        """Return the number of the first block that is handed something else then; len(blocks) stands for the end."""
        found: list[Fingerprint] = []
        try:
            for first in (number for number, block in enumerate(blocks) if block.enters):
                found += _handed(model, blocks, first, inputs, outputs, traced, around)
            wrong = same_fingerprints(found, wanted)
            if wrong is not None:
                return wrong
            end = _end(run_outside(body, blocks, inputs, outputs), blocks)
        except Exception:  # of the model's own code, which may ask anything of what blocks give
            return len(found)
        return None if same_fingerprints([end], [_end(traced.output, blocks)]) is None else len(blocks)

    wrong = runs_with(given)
    if wrong is not None:
        return set(), traced.calls[min(wrong, len(blocks) - 1)].path
    ends = {segment_of(blocks, n)[-1] for n, block in enumerate(blocks) if block.enters}
    last = len(blocks) - 1
    if runs_with({number: given[number] for number in ends}) is None:
        return ends - {last}, None
    others = [number for number in given if number not in ends]
    found = {n for n in others if runs_with({k: v for k, v in given.items() if k != n}) is not None}
    return (ends | found) - {last}, None


def _end(output: Any, blocks: Sequence[Block]) -> Fingerprint:
    """Return the fingerprint of what a model returned; where all of it is one block, of what it predicts."""
    return fingerprint(predictions(output) if blocks[0].path == "" else output)


def _handed(
    model: PreTrainedModel,
    blocks: Sequence[Block],
    first: int,
    inputs: Inputs,
    outputs: Mapping[int, Tensor],
    traced: Trace,
    around: Around,
) -> list[Fingerprint]:
    """Return the fingerprints of what the blocks of a segment are handed."""
    with torch.no_grad(), around(blocks[first].module, blocks[first].path):
        entered = enter(model, blocks, first, inputs, outputs)
    found = []
    for number, call in enumerate(entered.arguments):
        leaves = [traced.given[leaf] if isinstance(leaf, Carried) else leaf for leaf in call.flat()[0]]
        found.append(fingerprint_of(call.with_leaves(leaves), None if number else entered.hidden))
    return found
