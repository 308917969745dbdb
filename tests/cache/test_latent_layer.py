from __future__ import annotations

import pytest
import torch
from tests.cache.helpers import IDS, in_pieces, pair
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from eckart.cache.attach import latent_cache, remove_latent_cache
from eckart.cache.latent_layer import LATENT_LAYERS, LatentLayerMixin
from eckart.errors import EckartError


def test_each_kind_stands_for_one_of_transformers() -> None:
    assert set(LATENT_LAYERS) == {DynamicLayer, DynamicSlidingWindowLayer}
    assert all(issubclass(ours, (LatentLayerMixin, theirs)) for theirs, ours in LATENT_LAYERS.items())


def test_it_holds_latents_where_keys_were() -> None:
    model, _ = pair()
    latent_cache(model)
    _, cache = in_pieces(model, IDS, 5, 4)
    attention = model.model.layers[0].self_attn
    layer = cache.layers[0]
    assert layer.keys.shape == (2, 1, 9, attention.k_proj.rank + attention.v_proj.rank)
    assert layer.values.shape == (2, 1, 9, 0)
    assert layer.stored_tokens() == layer.get_seq_length() == 9
    assert layer.token_bytes() == 2 * 4 * layer.keys.shape[-1]
    assert [other.beside is layer.beside for other in cache.layers] == [True] * 3
    layer.offload()
    layer.prefetch()
    layer.reset()
    assert (layer.stored_tokens(), layer.token_bytes()) == (0, 0.0)


@pytest.mark.parametrize("what", ["another model", "taken off"])
def test_a_cache_of_another_model_is_refused(what: str) -> None:
    model, dense = pair()
    latent_cache(model)
    _, cache = in_pieces(model, IDS, 5, 4)
    if what == "taken off":
        remove_latent_cache(model)
    with pytest.raises(EckartError, match=r"holds latents of another model.*Make a new cache"):
        in_pieces(model if what == "taken off" else dense, IDS, 9, cache=cache)


def test_it_goes_on_where_gradients_are_asked_for() -> None:
    """A cache that was begun without gradients is of latents for ever."""
    model, dense = pair()
    latent_cache(model)
    _, cache = in_pieces(model, IDS[:, :5], 5)
    _, theirs = in_pieces(dense, IDS[:, :5], 5)
    ours = model(input_ids=IDS[:, 5:], use_cache=True, cache=cache).logits
    expected = dense(input_ids=IDS[:, 5:], use_cache=True, cache=theirs).logits
    torch.testing.assert_close(ours, expected)
