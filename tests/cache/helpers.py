"""Tiny factored models, and one of the same numbers with a cache of keys and values."""

from __future__ import annotations

import copy
from typing import Any

import torch
from tests.conftest import VOCABULARY, make_model
from torch import Tensor
from transformers import PreTrainedModel

import eckart

IDS = torch.randint(1, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(3))


def factored(kind: str = "llama", keep: float = 0.35, *overrides: str) -> PreTrainedModel:
    model = make_model(kind)
    eckart.compress(model, "svd", keep, overrides=overrides)
    return model


def pair(kind: str = "llama", *overrides: str) -> tuple[PreTrainedModel, PreTrainedModel]:
    """Return a model for a latent cache, and the same without one."""
    model = factored(kind, 0.35, *overrides)
    return model, copy.deepcopy(model)


@torch.no_grad()
def in_pieces(model: PreTrainedModel, ids: Tensor, *pieces: int, cache: Any = None) -> tuple[Tensor, Any]:
    """Return the logits of a text that is handed to a model piece by piece, and the cache in the end."""
    logits = []
    for piece in torch.split(ids, list(pieces), dim=1):
        outputs = model(input_ids=piece, use_cache=True, cache=cache)
        cache = outputs.cache
        logits.append(outputs.logits)
    return torch.cat(logits, dim=1), cache


def assert_alike(ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> None:
    assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()
