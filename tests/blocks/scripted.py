"""Models that call a few blocks in any way that a function says."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from eckart.blocks.trace import Trace, trace

WIDTH = 6


class Part(nn.Module):
    """A block: a linear layer, and what a function makes of it and of what the block is handed."""

    def __init__(self, run: Callable[..., Any]) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.run = run

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(self, *args, **kwargs)


def plain(block: Any, hidden: Tensor) -> Tensor:
    result: Tensor = hidden + block.linear(hidden).tanh()
    return result


class Scripted(PreTrainedModel):  # type: ignore[misc]
    """A model that takes ``x`` (batch, length, width), and calls its ``layers`` as ``run`` does."""

    config_class = PretrainedConfig
    main_input_name = "x"

    def __init__(self, run: Callable[[Any, Tensor], Any], *blocks: Callable[..., Any]) -> None:
        super().__init__(PretrainedConfig())
        torch.manual_seed(0)
        self.layers = nn.ModuleList(Part(block) for block in blocks)
        self.run = run

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


def x(batch: int = 1, length: int = 4, seed: int = 0) -> dict[str, Tensor]:
    return {"x": torch.randn(batch, length, WIDTH, generator=torch.Generator().manual_seed(seed))}


def blocks_of(model: Scripted) -> dict[str, nn.Module]:
    return {f"layers.{number}": block for number, block in enumerate(model.layers)}


def traced(run: Callable[[Any, Tensor], Any], *blocks: Callable[..., Any]) -> Trace:
    """Trace a model of some blocks."""
    model = Scripted(run, *blocks)
    return trace(model, blocks_of(model), x(), lambda module, path: nullcontext(), lambda call: None)
