from __future__ import annotations

import pytest
import torch
from tests.cache.helpers import IDS, factored, in_pieces
from tests.conftest import make_model
from transformers.cache_utils import DynamicSlidingWindowLayer

from eckart.cache.latent_layer import LatentLayer
from eckart.errors import EckartError
from eckart.evaluate.caches import CacheKind, cache_bytes


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("dense", CacheKind("dense"), "dense"),
        ("latent", CacheKind("latent", 16), "latent:16"),
        ("latent:4", CacheKind("latent", 4), "latent:4"),
        ("quanto", CacheKind("quanto", 4), "quanto:4"),
        ("hqq:2", CacheKind("hqq", 2), "hqq:2"),
        ("window:64", CacheKind("window", 64), "window:64"),
    ],
)
def test_names(text: str, kind: CacheKind, said: str) -> None:
    assert CacheKind.parse(text) == kind
    assert str(kind) == said


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("static", "No cache is called 'static'"),
        ("latent:many", "No cache is called 'latent:many'"),
        ("latent:7", "has 16, 8, 6, 5, 4, 3 bits, found 7"),
        ("quanto:8", "has 2, 4 bits, found 8"),
        ("window", "A window has two tokens or more"),
        ("window:1", "A window has two tokens or more"),
        ("dense:4", "takes no number"),
        ("", "No cache is called ''"),
    ],
)
def test_what_is_none(text: str, match: str) -> None:
    with pytest.raises(EckartError, match=match):
        CacheKind.parse(text)


def test_each_kind_makes_its_cache() -> None:
    model = factored()
    make = CacheKind("latent", 16).prepare(model)
    _, cache = in_pieces(model, IDS, 5, 4, cache=make())
    assert isinstance(cache.layers[0], LatentLayer)
    latents = sum(layer.token_bytes() for layer in cache.layers) * 9
    assert cache_bytes(cache) == latents + cache.layers[0].beside.bytes()
    make = CacheKind("dense").prepare(model)
    _, cache = in_pieces(model, IDS, 5, 4, cache=make())
    assert cache_bytes(cache) == 2 * 9 * 3 * 2 * 16 * 4
    make = CacheKind("window", 4).prepare(model)
    assert make() is not make()
    _, cache = in_pieces(model, IDS, 5, 4, cache=make())
    assert isinstance(cache.layers[0], DynamicSlidingWindowLayer)
    assert cache_bytes(cache) == 2 * 3 * 3 * 2 * 16 * 4


def test_a_window_sees_the_last_tokens_only() -> None:
    model = make_model()
    make = CacheKind("window", 4).prepare(model)
    found, _ = in_pieces(model, IDS, *(1,) * 9, cache=make())
    whole, _ = in_pieces(model, IDS, 9)
    torch.testing.assert_close(found[:, :4], whole[:, :4])
    assert not torch.allclose(found[:, 8], whole[:, 8], rtol=1e-3)


def test_a_package_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.cache_utils.is_hqq_available", lambda: False)
    with pytest.raises(EckartError, match="pip install hqq"):
        CacheKind("hqq", 4).prepare(make_model())


def test_a_model_whose_cache_transformers_does_not_quantise() -> None:
    with pytest.raises(EckartError, match=r"no cache 'quanto' for this model.*sliding.*Use latent:4"):
        CacheKind("quanto", 4).prepare(make_model("gemma3"))


def test_quantised_tensors_are_counted_by_their_parts() -> None:
    pytest.importorskip("optimum.quanto")
    model = make_model()
    make = CacheKind("quanto", 4).prepare(model)
    _, cache = in_pieces(model, IDS, 9, cache=make())
    assert 0 < cache_bytes(cache) < 2 * 9 * 3 * 2 * 16 * 4
