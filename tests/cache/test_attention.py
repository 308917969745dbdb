from __future__ import annotations

import copy

import torch
from tests.cache.helpers import IDS, assert_alike, in_pieces, pair

from eckart.cache.attach import latent_cache


def test_nothing_of_a_pass_is_held_behind_it() -> None:
    model, _ = pair()
    attentions = latent_cache(model).attentions
    in_pieces(model, IDS, 5, 4)
    assert all(each._call is None and each._latents == {} for each in attentions)
    model(input_ids=IDS, use_cache=False)
    assert all(each._call is None and each._latents == {} for each in attentions)


def test_a_copy_of_the_model_has_its_own() -> None:
    model, dense = pair()
    latent_cache(model)
    other = copy.deepcopy(model)
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    assert_alike(in_pieces(other, IDS, 5, 4)[0], in_pieces(dense, IDS, 9)[0])


def test_tensors_beside_latents_are_shared_by_those_that_were_handed_the_same() -> None:
    model, _ = pair("gemma3")
    latent_cache(model)
    _, cache = in_pieces(model, IDS, 5, 4)
    stores = [id(layer.beside) for layer in cache.layers]
    assert stores[0] == stores[2] != stores[1] == stores[3]
    model, _ = pair("gpt2")  # hands over no angles
    latent_cache(model)
    _, cache = in_pieces(model, IDS, 5, 4)
    assert [layer.beside.bytes() for layer in cache.layers] == [0, 0]
