"""What the tests of the profile share."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from eckart.blocks.blockwise_model import OriginalModel
from eckart.blocks.discovery import find_blocks
from eckart.blocks.onload import ResidentWeights
from eckart.blocks.tensor_cache import Workspace
from eckart.data.calibration import Calibration


def original_of(model: PreTrainedModel, tokens: torch.Tensor, workspace: Workspace | None = None) -> OriginalModel:
    return OriginalModel(
        model,
        find_blocks(model),
        ResidentWeights(),
        torch.device("cpu"),
        workspace or Workspace(),
        Calibration(tokens, "test", 0),
    )
