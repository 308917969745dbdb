"""Whether what a block gives in one place depends on later places."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from eckart.blocks.block_arguments import BlockArguments

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def is_causal(block: nn.Module, call: BlockArguments, hidden: Tensor, model: PreTrainedModel) -> bool:
    """Return whether what a block gives for the first place depends on that one alone, which gradients tell exactly.

    Args:
        block: where ``hidden`` is.
        call: how the model calls it.
        hidden: (batch, length, width); what has no such form is causal where the model writes text.
        model: that it is of.
    """
    if hidden.ndim != 3:
        return bool(model.can_generate())
    leaf = hidden.detach().clone().requires_grad_(True)
    with torch.enable_grad():
        try:
            behind = call(block, leaf.clone())
            first = behind[:, 0].float()
            # Not the sum: behind a norm that is the same whatever the tokens are.
            (gradient,) = torch.autograd.grad((first @ torch.linspace(1, 2, first.shape[1]).to(first)).sum(), leaf)
        except (RuntimeError, AssertionError):  # of what has no gradients
            return bool(model.can_generate())
    return not gradient[:, 1:].nan_to_num().any()
