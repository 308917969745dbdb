"""A key-value cache that keeps the latents of factored layers in place of keys and values."""

from __future__ import annotations

from eckart.cache.attach import LatentCache, latent_cache, remove_latent_cache
from eckart.cache.size import CacheSize, LayerCacheSize

__all__ = ["CacheSize", "LatentCache", "LayerCacheSize", "latent_cache", "remove_latent_cache"]
