"""Hidden states of two models on their way through all blocks, against runs of both models as a whole."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import Stop
from tests.tiny_models import Samples, blockwise, forward_inputs, make
from torch import Tensor
from transformers import PreTrainedModel

import eckart
from eckart.blocks.block import Block
from eckart.blocks.blockwise_model import BlockwiseModel
from eckart.compression.drift import FOLLOWED_SAMPLES, FollowedTokens, outputs_of
from eckart.compression.state import WalkState
from eckart.compression.walk_streams import COMPRESSED, FOLLOWED, ORIGINAL, WalkStreams
from eckart.errors import InterruptedRun
from eckart.run.compress_checkpoint import compress_checkpoint

KINDS = ["llama", "bart", "t5", "llava", "qwen3-vl", "gemma3n"]
BOTH = eckart.load_recipe("aa-svd", ["distillation=logits"])


def behind_blocks(model: PreTrainedModel, blocks: Sequence[Block], samples: Samples) -> list[list[Tensor]]:
    """Return what each block gives in runs of the whole model."""
    found: list[list[Tensor]] = [[] for _ in blocks]
    handles = [
        model.get_submodule(block.path).register_forward_hook(
            lambda _, __, output, n=n, block=block: found[n].append(block.site.result(output))
        )
        for n, block in enumerate(blocks)
    ]
    with torch.no_grad():
        for sample in samples:
            model(**forward_inputs(model, sample))
    for handle in handles:
        handle.remove()
    return found


def change(block: Block) -> None:
    """Stand for a compression."""
    with torch.no_grad():
        for ref in block.linears:
            block.module.get_submodule(ref.name).get_parameter("weight").mul_(0.7)


def advance(streams: WalkStreams, state: WalkState) -> WalkState:
    """Go behind a block as a walk does, and change it on the way."""
    number = state.finished
    assert state.original is not None
    assert state.compressed is not None
    assert state.followed is not None
    block = streams.model.blocks[number]
    original = streams.original.advance(number, state.original, ORIGINAL)
    few = outputs_of(block, streams.few_original.block_pass(number), state.followed.original)
    change(block)
    compressed = streams.compressed.advance(number, state.compressed, COMPRESSED)
    other = outputs_of(block, streams.few_compressed.block_pass(number), state.followed.compressed)
    followed = FollowedTokens.of(streams.behind(FOLLOWED, number), few.hidden, other.hidden)
    behind = WalkState(number + 1, original, compressed, followed, state.taps, state.records)
    return streams.entered(behind)


def assert_same(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stops", [False, True])
def test_streams_are_those_of_both_models(kind: str, stops: bool) -> None:
    """Also where a walk is stopped in front of each block and goes on in another process."""
    model, samples = make(kind)
    dense = copy.deepcopy(model)
    run = blockwise(model, samples)
    # A copy, since hands and taps are found on the model as it is.
    theirs = behind_blocks(dense, run.blocks, samples)
    streams = WalkStreams(run, BOTH)
    state, last = streams.start(None), len(run.blocks) - 1
    for number in range(len(run.blocks)):
        if stops and number:
            streams = WalkStreams(run, BOTH)
            streams.start(None)
            streams.reenter(state)
        state = advance(streams, state)
        if number == last or run.blocks[number].tapped:
            continue
        assert state.original is not None
        assert_same(list(state.original), theirs[number])
    assert state.original is not None
    assert state.compressed is not None
    assert state.followed is not None
    ours = behind_blocks(model, run.blocks, samples)  # all blocks are changed now
    assert_same(list(state.original), theirs[last])
    assert_same(list(state.compressed), ours[last])
    assert_same(state.followed.original, theirs[last][:FOLLOWED_SAMPLES])
    assert_same(state.followed.compressed, ours[last][:FOLLOWED_SAMPLES])
    for kept, expected in ((ORIGINAL, theirs), (COMPRESSED, ours)):
        taps = streams.taps_of(state, kept)
        assert taps.keys() == {n for n, block in enumerate(run.blocks) if block.tapped}
        for n, stream in taps.items():
            assert_same(list(stream), expected[n])
    assert any(not torch.allclose(a, b, rtol=0.1) for a, b in zip(ours[last], theirs[last], strict=True))


@pytest.mark.parametrize(
    ("recipe", "original", "compressed"),
    [("svd-llm", True, False), ("dobi-shift", False, True), ("saes-svd", True, True), ("aa-svd", True, True)],
)
def test_streams_that_nobody_looks_at_are_not_carried(recipe: str, original: bool, compressed: bool) -> None:
    run = blockwise(*make("bart"))
    streams = WalkStreams(run, eckart.RECIPES[recipe])
    state = streams.start(None)
    assert (state.original is not None, state.compressed is not None) == (original, compressed)
    assert state.followed is not None
    if original and compressed:
        assert state.original is state.compressed


def test_the_entry_is_what_is_in_front_of_the_first_block() -> None:
    run: BlockwiseModel = blockwise(*make("llava"))
    entry = run.cache("entry", 0)
    state = WalkStreams(run, BOTH).start(entry)
    assert state.original is not None
    assert len(entry) == 3
    assert all(torch.equal(one, other) for one, other in zip(entry, state.original, strict=True))


@pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning")
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


@pytest.mark.parametrize(("kind", "stop"), [("bart", 3), ("gemma3n", 1)])
@pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning")
def test_models_of_several_towers_are_compressed_in_files_and_gone_on_with(
    kind: str, stop: int, tmp_path: Path
) -> None:
    """What blocks are handed depends on the sample, so that it is in files too."""
    model, samples = make(kind)
    model.save_pretrained(tmp_path / "dense")
    eckart.compress(model, "saes-svd", 0.6, samples)
    for name, callback in (("whole", None), ("stopped", Stop(stop, KeyboardInterrupt()))):
        options: dict[str, Any] = {"memory": 1, "callback": callback}
        if callback is not None:
            with pytest.raises(InterruptedRun):
                compress_checkpoint(tmp_path / "dense", tmp_path / name, "saes-svd", 0.6, samples, **options)
            options = {"memory": 1, "resume": True}
        compress_checkpoint(tmp_path / "dense", tmp_path / name, "saes-svd", 0.6, samples, **options)
        found = type(model).from_pretrained(tmp_path / name).state_dict()
        assert all(torch.equal(found[key], tensor) for key, tensor in model.state_dict().items())
