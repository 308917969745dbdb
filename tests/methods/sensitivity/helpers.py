"""What the tests of the profile share."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from eckart.blocks.blockwise_model import BlockwiseModel
from eckart.blocks.discovery import find_blocks
from eckart.blocks.onload import ResidentWeights
from eckart.blocks.tensor_cache import ScratchSpace
from eckart.data.calibration import Calibration


def original_of(model: PreTrainedModel, tokens: torch.Tensor, scratch: ScratchSpace | None = None) -> BlockwiseModel:
    return BlockwiseModel(
        model,
        find_blocks(model),
        ResidentWeights(),
        torch.device("cpu"),
        scratch or ScratchSpace(),
        Calibration(tokens, "test", 0),
    )
