"""How many bytes a token takes in the key-value cache."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LayerCacheSize:
    """Of one attention module.

    Attributes:
        path: of the module.
        dense: bytes of the keys and values of a token.
        stored: bytes that a token takes, which is the same where nothing is saved.
        reason: why nothing is saved; empty where something is.
    """

    path: str
    dense: int
    stored: int
    reason: str = ""


@dataclass(frozen=True)
class CacheSize:
    """Of all attention modules of a model that hand something to a cache.

    Attributes:
        layers: in the order of the model.
        shared: bytes a token that all layers need together, such as angles of positions.
    """

    layers: tuple[LayerCacheSize, ...]
    shared: int

    @property
    def dense(self) -> int:
        """Bytes of the keys and values of a token."""
        return sum(layer.dense for layer in self.layers)

    @property
    def stored(self) -> int:
        """Bytes that a token takes in the latent cache."""
        return sum(layer.stored for layer in self.layers) + self.shared

    @property
    def share(self) -> float:
        """Of the dense bytes; 1 if there is no cache."""
        return self.stored / self.dense if self.dense else 1.0

    @property
    def reasons(self) -> dict[str, int]:
        """Why layers save nothing, each with how many of them there are."""
        found: dict[str, int] = {}
        for layer in self.layers:
            if layer.reason:
                found[layer.reason] = found.get(layer.reason, 0) + 1
        return found
