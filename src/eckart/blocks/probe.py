"""Inputs on which a model can be run once, made up from its configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from eckart.blocks.block_arguments import Inputs
from eckart.data.context import token_embedding
from eckart.errors import UnsupportedModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROBE_TOKENS = 16
PIXELS, SOUND, WAVE = "pixel_values", "input_features", "input_values"
SECOND = 16000  # samples of a wave


def probe_inputs(model: PreTrainedModel) -> Inputs:
    """Return a small batch for a model that takes tokens, images or sound alone.

    Raises:
        UnsupportedModelError: it takes something else.
    """
    embedding, takes = token_embedding(model), model.main_input_name
    vocabulary = getattr(embedding, "num_embeddings", None)
    if takes == "input_ids" and isinstance(vocabulary, int):
        tokens = torch.arange(PROBE_TOKENS)[None] % vocabulary
        decoder: dict[str, Tensor] = {}
        if getattr(model.config, "is_encoder_decoder", False):
            decoder = {"decoder_input_ids": tokens}
        return {"input_ids": tokens, **decoder}
    config, made = model.config, torch.Generator().manual_seed(0)
    start = torch.zeros(1, 2, dtype=torch.int64)
    decoder = {"decoder_input_ids": start} if getattr(config, "is_encoder_decoder", False) else {}
    if takes == PIXELS and hasattr(config, "image_size"):
        size = config.image_size
        height, width = (size, size) if isinstance(size, int) else size
        channels = int(getattr(config, "num_channels", 3))
        return {PIXELS: torch.randn(1, channels, height, width, generator=made), **decoder}
    if takes == SOUND and hasattr(config, "num_mel_bins"):
        length = 2 * int(getattr(config, "max_source_positions", PROBE_TOKENS))
        return {SOUND: torch.randn(1, int(config.num_mel_bins), length, generator=made), **decoder}
    if takes == WAVE:
        return {WAVE: torch.randn(1, SECOND, generator=made), **decoder}
    raise UnsupportedModelError(
        f"{type(model).__name__} takes {takes!r}, and nothing is known of its shape. Calibrate on samples that hold "
        "all that its forward needs: calibration=[{name: tensor, ...}, ...]."
    )
