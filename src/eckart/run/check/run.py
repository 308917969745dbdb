"""The one check of a model before anything is measured on it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import torch

from eckart.blocks.block import Block
from eckart.blocks.block_arguments import Inputs, failures_named
from eckart.blocks.blockwise_model import BlockwiseModel
from eckart.blocks.discovery import vocabulary_of
from eckart.blocks.losses import gives_logits, predictions
from eckart.compression.model_check import LEAST_SHARE, ModelCheck
from eckart.compression.plan import Plan
from eckart.data.context import context_of
from eckart.data.samples import IDS
from eckart.errors import UnsupportedModelError
from eckart.methods.allocation import Needs
from eckart.methods.allocation.base import OwnMeasurement
from eckart.run.check.reach import reach_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CLASSES = 1024  # logits of more places than that are of tokens


def check_model(blockwise: BlockwiseModel, plan: Plan, *, allow_partial: bool = False) -> ModelCheck:
    """Return what is known of a model, or raise for what would end in an error or a wrong result later.

    That weights are finite was seen where the blocks were found (:func:`eckart.blocks.discovery.find_blocks`), and that
    the model can take the tokens where those were drawn (:func:`eckart.data.calibration.calibrate`).

    Args:
        blockwise: the model, with the tokens that it will be run on, if it will be.
        plan: what is to be done to it; its ranks do not matter.
        allow_partial: whether less than half of the blocks' bytes may be reached.

    Raises:
        UnsupportedModelError: too little is reached, or the recipe looks at predictions and there are none.
    """
    model, blocks = blockwise.model, blockwise.blocks
    check = check_reach(model, plan.blocks, plan.left, plan.rounded_tables, allow_partial=allow_partial)
    if blockwise.calibration is None:
        return check
    known = blockwise.known
    inputs = blockwise.sample(0)
    with failures_named(model, inputs, known.length), torch.no_grad():
        with blockwise.entrance() as front:
            entered = front(inputs)
        first, last = blocks[0], blocks[-1]
        alike = first.rows == last.rows and entered.hidden.shape[-1] == last.width
        if looks_at_predictions(plan) and len(blockwise.segments) == 1 and alike:
            with blockwise.head() as head:
                check_predictions(head(inputs, {len(blocks) - 1: entered.hidden}), inputs)
    ids = inputs.get(IDS)
    return check.model_copy(
        update={
            "arguments": sorted(entered.arguments[0].named(blocks[0].module)),
            "length": known.length if ids is not None else None,
            "positions": context_of(model) if ids is not None else None,
            "largest_id": None if ids is None else int(known.tokens.max() if known.tokens is not None else ids.max()),
        }
    )


def check_reach(
    model: PreTrainedModel,
    blocks: Sequence[Block],
    left: Collection[str] = (),
    tables: Collection[str] = (),
    *,
    allow_partial: bool,
) -> ModelCheck:
    """Return what is known without data.

    Args:
        model: may be without its tensors.
        blocks: of it.
        left: paths of the linears that the user leaves as they are; they count as reached.
        tables: paths of an embedding and a head that are rounded.
        allow_partial: whether less than half of the blocks' bytes may be reached.

    Raises:
        UnsupportedModelError: too little is reached.
    """
    check = ModelCheck(vocabulary=vocabulary_of(model), **vars(reach_of(model, blocks, left, tables)))
    if check.share_that_could_be < LEAST_SHARE and not allow_partial:
        raise UnsupportedModelError(
            f"Compression of {type(model).__name__} {check.reach} Expected at least {LEAST_SHARE:.0%} of the bytes "
            "in the blocks. Add --allow-partial (allow_partial=True) to compress that part and leave the rest."
        )
    return check


def looks_at_predictions(plan: Plan) -> bool:
    """Return whether a recipe runs the model's head: for gradients, trials or logits."""
    recipe, allocation = plan.recipe, plan.recipe.allocation
    by_gradients = bool(allocation.needs & (Needs.FIRST_ORDER | Needs.CURVATURE)) or recipe.has_metric
    for_ranks = by_gradients or allocation.own_measurement is not OwnMeasurement.NONE
    measured = plan.budgets.factors if by_gradients else plan.budgets.chooses
    return (for_ranks and measured) or recipe.distillation.needs_data


def check_predictions(output: Any, inputs: Inputs) -> None:
    """Raise if logits have no place for a token that is to be predicted.

    Args:
        output: of the model.
        inputs: of it.

    Raises:
        UnsupportedModelError: says which.
    """
    found = predictions(output)
    ids = inputs.get(IDS)
    is_text = gives_logits(output) and ids is not None and found.ndim == 3 and found.shape[:2] == ids.shape
    if is_text and ids is not None and found.shape[-1] > CLASSES and found.shape[-1] <= int(ids.max()):
        raise UnsupportedModelError(
            f"The model gives logits of shape {tuple(found.shape)} for tokens with ids up to {int(ids.max())}: some "
            "have no place. Use a recipe that looks at activations only, such as svd-llm."
        )
