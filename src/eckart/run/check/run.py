"""The one check of a model before anything is measured on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from eckart.blocks.block_arguments import (
    BlockArguments,
    check_calls_are_independent_of_tokens,
    failures_named,
    named_arguments,
    run_head,
)
from eckart.blocks.blockwise_model import BlockwiseModel
from eckart.blocks.discovery import Block, vocabulary_of
from eckart.compression.model_check import LEAST_SHARE, ModelCheck
from eckart.compression.plan import Plan
from eckart.data.context import context_of
from eckart.errors import UnsupportedModelError
from eckart.methods.allocation import Needs
from eckart.methods.allocation.base import OwnMeasurement
from eckart.methods.recipe import Recipe
from eckart.run.check.reach import reach_of


def check_model(blockwise: BlockwiseModel, plan: Plan, *, allow_partial: bool = False) -> ModelCheck:
    """Return what is known of a model, or raise for what would end in an error or a wrong result later.

    That weights are finite was seen where the blocks were found (:func:`eckart.blocks.discovery.find_blocks`), and that
    the model can take the tokens where those were drawn (:func:`eckart.data.calibration.calibrate`).

    Args:
        blockwise: the model, with the tokens that it will be run on, if it will be.
        plan: what is to be done to it; its ranks do not matter.
        allow_partial: whether less than half of the blocks' bytes may be reached.

    Raises:
        UnsupportedModelError: too little is reached, blocks are handed what depends on the text, or the recipe looks at
            predictions of the next token and there are none.
    """
    model, modules, device = blockwise.model, blockwise.modules, blockwise.device
    check = check_reach(model, plan.blocks, allow_partial=allow_partial)
    calibration = blockwise.calibration
    if calibration is None:
        return check
    predicts = looks_at_predictions(plan)
    length = calibration.tokens.shape[1]
    skip = (*modules[1:], None if predicts else model.get_output_embeddings())
    with blockwise.weights.onload(model, device, skip), failures_named(model, length):
        hidden, arguments = check_calls_are_independent_of_tokens(model, modules, length, check.vocabulary, device)
        if predicts:
            _check_predictions(model, modules, arguments, calibration.tokens.to(device), hidden, plan.recipe)
    names = sorted(named_arguments(modules[0], arguments[0]))
    return check.model_copy(
        update={
            "arguments": names,
            "length": length,
            "positions": context_of(model),
            "largest_id": int(calibration.tokens.max()),
        }
    )


def check_reach(model: PreTrainedModel, blocks: Sequence[Block], *, allow_partial: bool) -> ModelCheck:
    """Return what is known without data.

    Args:
        model: may be without its tensors.
        blocks: of it.
        allow_partial: whether less than half of the blocks' bytes may be reached.

    Raises:
        UnsupportedModelError: too little is reached.
    """
    check = ModelCheck(vocabulary=vocabulary_of(model), **asdict(reach_of(model, blocks)))
    if check.share_of_blocks < LEAST_SHARE and not allow_partial:
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
    return (for_ranks and plan.keep < 1) or recipe.distillation.needs_data


def _check_predictions(
    model: PreTrainedModel,
    modules: nn.ModuleList,
    arguments: list[BlockArguments],
    tokens: Tensor,
    hidden: Tensor,
    recipe: Recipe,
) -> None:
    """Raise unless the model predicts the next token, in each place from those before it."""
    with torch.no_grad():
        logits = getattr(run_head(model, modules, arguments[-1], tokens[:1], hidden), "logits", None)
    name = type(model).__name__
    advice = (
        f"Recipe {recipe.name!r} measures predictions of the next token. Use the model's class with a language "
        "modelling head, or a recipe that looks at activations only, such as svd-llm."
    )
    shape = tuple(logits.shape) if isinstance(logits, Tensor) else ()
    if len(shape) != 3 or shape[:2] != (1, tokens.shape[1]) or shape[2] <= int(tokens.max()):
        found = f"logits of shape {shape}" if shape else "no logits"
        raise UnsupportedModelError(
            f"{name} gives {found} for {tokens.shape[1]} tokens with ids up to {int(tokens.max())}. {advice}"
        )
    if not is_causal(modules[0], arguments[0], hidden):
        raise UnsupportedModelError(f"{name} looks at the tokens behind each token. {advice}")


def is_causal(block: nn.Module, call: BlockArguments, hidden: Tensor) -> bool:
    """Return whether what a block gives for the first token depends on that one alone, which gradients tell exactly.

    Args:
        block: where ``hidden`` is.
        call: how the model calls it.
        hidden: (batch, length, width).
    """
    leaf = hidden.detach().clone().requires_grad_(True)
    with torch.enable_grad():
        first = call(block, leaf.clone())[:, 0].float()
        if not first.requires_grad:
            return True
        # Not the sum: behind a norm that is the same whatever the tokens are.
        (gradient,) = torch.autograd.grad((first @ torch.linspace(1, 2, first.shape[1]).to(first)).sum(), leaf)
    return not gradient[:, 1:].nan_to_num().any()
