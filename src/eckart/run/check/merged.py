"""Whether layers are still apart when the base library saves the model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from eckart.blocks.block import Block, LinearRef
from eckart.errors import UnsupportedModelError
from eckart.methods.targets import in_all_blocks


def check_layers_stay_apart(model: PreTrainedModel, blocks: Sequence[Block]) -> None:
    """Raise if transformers saves several target linears of a model class as one tensor.

    The original checkpoints of some classes hold for instance queries, keys and values in one matrix; factors of
    different layers, put together like that, could not be told apart again.

    Args:
        model: whose class says so.
        blocks: of it.

    Raises:
        UnsupportedModelError: naming the layers.
    """
    if not _merged(model, [ref for block in blocks for ref in block.linears]):
        return
    # One at a time, since nothing comes out if any of it cannot be put together.
    merged = sorted({in_all_blocks(path) for block in blocks for path in _merged(model, block.linears)})
    raise UnsupportedModelError(
        f"{type(model).__name__} is saved with layers put together ({', '.join(merged)}), which would mix up their "
        "factors. Such models cannot be compressed yet."
    )


def _merged(model: PreTrainedModel, refs: Sequence[LinearRef]) -> list[str]:
    """Return the paths of the linears that are saved as a part of something else."""
    # As many numbers as there are tensors, to see which of them come out as they are.
    tensors = {f"{ref.path}.first.weight": torch.full((1, 1), n) for n, ref in enumerate(refs)}
    try:
        saved = revert_weight_conversion(model, tensors)
    except Exception:  # factors of different shapes, in an operation that was made for weights
        saved = {}
    whole = {int(tensor) for tensor in saved.values() if tensor.numel() == 1}
    return [ref.path for n, ref in enumerate(refs) if n not in whole]
