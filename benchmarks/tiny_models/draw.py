"""Draws random ids, pixels and sounds, and looks numbers up in a config."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

FIRST, LAST = 5, 100  # ids of ordinary tokens; special ones of tiny configs are outside


class Draw:
    """A seeded source of inputs for a model.

    Args:
        config: of the model.
        seed: of what is drawn.
    """

    def __init__(self, config: PreTrainedConfig, seed: int) -> None:
        self.config = config
        self._generator = torch.Generator().manual_seed(seed)

    def ids(self, length: int, *, below: int = LAST) -> Tensor:
        """Return token ids (1, length)."""
        vocabulary = find(self.config, "vocab_size", default=LAST)
        top = min(below, vocabulary)
        return torch.randint(min(FIRST, top - 1), top, (1, length), generator=self._generator)

    def real(self, *shape: int) -> Tensor:
        """Return standard normal numbers."""
        return torch.randn(*shape, generator=self._generator)

    def share(self, *shape: int) -> Tensor:
        """Return numbers in [0, 1)."""
        return torch.rand(*shape, generator=self._generator)


def find(config: PreTrainedConfig, *names: str, default: Any = None) -> Any:
    """Return the first of some fields that a config has, or one of the configs in it."""
    for name in names:
        for place in all_configs(config):
            value = getattr(place, name, None)
            if value is not None and not callable(value):
                return value
    return default


def all_configs(config: PreTrainedConfig) -> Iterator[PreTrainedConfig]:
    """Yield a config and all in it, from the outside in."""
    yield config
    for part in vars(config).values():
        if isinstance(part, PreTrainedConfig):
            yield from all_configs(part)
