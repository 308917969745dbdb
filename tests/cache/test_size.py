from __future__ import annotations

from eckart.cache.size import CacheSize, LayerCacheSize


def test_sums_and_reasons() -> None:
    layers = (LayerCacheSize("a", 100, 40), LayerCacheSize("b", 100, 100, "why"), LayerCacheSize("c", 100, 100, "why"))
    size = CacheSize(layers, 10)
    assert (size.dense, size.stored, size.share) == (300, 250, 250 / 300)
    assert size.reasons == {"why": 2}
    assert CacheSize((), 0).share == 1
