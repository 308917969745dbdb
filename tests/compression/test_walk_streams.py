from __future__ import annotations

import pytest
import torch
from tests.tiny_models import blockwise, make

import eckart
from eckart.compression.state import WalkState
from eckart.compression.walk_streams import ORIGINAL, WalkStreams
from eckart.methods.recipes.loader import load_recipe


def advanced(streams: WalkStreams, state: WalkState) -> WalkState:
    """Return the state behind the next block of a model that stays as it is."""
    model, number = streams.model, state.finished
    assert state.original is not None
    assert state.compressed is not None
    with model.onload(number):
        original = streams.original.advance(number, state.original, "original")
        compressed = streams.compressed.advance(number, state.compressed, "compressed")
    return streams.entered(WalkState(number + 1, original, compressed, state.followed, state.taps))


@pytest.mark.parametrize("kind", ["bart", "gemma3n"])
def test_both_streams_of_a_model_that_stays_as_it_is_are_those_of_the_model(kind: str) -> None:
    model, samples = make(kind)
    streams = WalkStreams(blockwise(model, samples), load_recipe("saes-svd"))
    expected = blockwise(model, samples).forward()
    state = streams.start(None)
    for number in range(len(streams.model.blocks)):
        for stream in (state.original, state.compressed):
            assert stream is not None
            assert all(map(torch.equal, stream, expected.fronts[number]))
        state = advanced(streams, state)


def test_what_others_look_at_is_kept() -> None:
    model, samples = make("bart")
    streams = WalkStreams(blockwise(model, samples), load_recipe("saes-svd"))
    state = streams.start(None)
    tapped = [number for number, block in enumerate(streams.model.blocks) if block.tapped]
    assert len(tapped) == 1
    while state.finished < len(streams.model.blocks):
        state = advanced(streams, state)
    assert set(state.taps) == {f"{kind}-{tapped[0]:05d}" for kind in ("original", "compressed", "followed")}
    assert list(streams.taps_of(state, ORIGINAL)) == tapped


def test_a_state_is_gone_on_from_with_what_blocks_gave_before() -> None:
    model, samples = make("gemma3n")
    first = WalkStreams(blockwise(model, samples), load_recipe("saes-svd"))
    state = first.start(None)
    while not any(name.startswith("given-") for name in state.taps):
        state = advanced(first, state)
    again = WalkStreams(blockwise(model, samples), load_recipe("saes-svd"))
    again.start(None)
    again.reenter(state)
    while state.finished < len(first.model.blocks):
        ours, theirs = advanced(first, state), advanced(again, state)
        assert ours.original is not None
        assert theirs.original is not None
        assert all(map(torch.equal, ours.original, theirs.original))
        state = ours


def test_what_other_blocks_are_handed_stays_as_it_is_in_a_training() -> None:
    """The first blocks give a bias of positions to the others, who are run with what it was."""
    model, samples = make("t5")
    biases = {name: p.detach().clone() for name, p in model.named_parameters() if "relative_attention_bias" in name}
    others = {name: p.detach().clone() for name, p in model.named_parameters() if name.endswith("layer_norm.weight")}
    assert len(biases) == 2
    overrides = ["refinement.epochs=1", "refinement.held_out=0", "distillation=logits", "distillation.epochs=1"]
    eckart.compress(model, "aa-svd", 0.7, list(samples), overrides=overrides)
    assert all(torch.equal(model.get_parameter(name), before) for name, before in biases.items())
    assert not any(torch.equal(model.get_parameter(name), before) for name, before in others.items() if "block" in name)
