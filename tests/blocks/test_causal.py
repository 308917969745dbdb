from __future__ import annotations

from typing import Any

import torch
from tests.blocks.scripted import WIDTH, Part
from tests.tiny_models import make

from eckart.blocks.block_arguments import BlockArguments
from eckart.blocks.causal import is_causal
from eckart.blocks.discovery import find_blocks


def test_an_encoder_is_not_causal_and_a_decoder_is() -> None:
    for kind, causal in (("llama", True), ("bert", False)):
        model, _ = make(kind)
        first = find_blocks(model)[0]
        hidden = torch.randn(1, 5, 32)
        assert first.causal == causal
        call = BlockArguments(kwargs={"attention_mask": None})
        if kind == "bert":
            assert not is_causal(first.module, call, hidden, model)
    mean: Any = Part(
        lambda part, hidden: hidden.cummax(1).values if part.causal else hidden.mean(1, keepdim=True) + hidden
    )
    for causal in (True, False):
        mean.causal = causal
        assert is_causal(mean, BlockArguments(), torch.randn(1, 5, WIDTH), model) == causal
