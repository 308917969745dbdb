"""What the tests of the profile share."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from eckart.blocks import find_blocks
from eckart.calibration import Calibration
from eckart.placement import ResidentWeights
from eckart.profiling.original import OriginalModel
from eckart.spool import Workspace


def original_of(model: PreTrainedModel, tokens: torch.Tensor, workspace: Workspace | None = None) -> OriginalModel:
    return OriginalModel(
        model,
        find_blocks(model),
        ResidentWeights(),
        torch.device("cpu"),
        workspace or Workspace(),
        Calibration(tokens, "test", 0),
    )
