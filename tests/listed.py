"""A mixture whose experts are modules in a list, which its own code hands tokens, as no class of transformers does."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaForCausalLM, LlamaMLP


class ListedConfig(LlamaConfig):  # type: ignore[misc]
    """Of a decoder with a number of experts, two of which see each token."""

    model_type = "listed"
    experts: int = 4


class ListedMixture(nn.Module):
    """Routes by a linear of its own, and runs one expert after another."""

    def __init__(self, config: ListedConfig) -> None:
        super().__init__()
        self.router = nn.Linear(config.hidden_size, config.experts, bias=False)
        self.experts = nn.ModuleList(LlamaMLP(config) for _ in range(config.experts))

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the weighted sum of what two experts give for each token."""
        tokens = hidden.flatten(0, -2)
        weights, chosen = self.router(tokens).softmax(dim=-1).topk(2, dim=-1)
        weights = weights / weights.sum(dim=-1, keepdim=True)
        result = torch.zeros_like(tokens)
        for number, expert in enumerate(self.experts):
            rows, place = torch.where(chosen == number)
            if len(rows):
                result.index_add_(0, rows, expert(tokens[rows]) * weights[rows, place, None])
        return result.view_as(hidden)


class ListedForCausalLM(LlamaForCausalLM):  # type: ignore[misc]
    """A decoder of such mixtures."""

    config_class: ClassVar[Any] = ListedConfig

    def __init__(self, config: ListedConfig) -> None:
        super().__init__(config)
        for layer in self.model.layers:
            layer.mlp = ListedMixture(config)
        self.post_init()
