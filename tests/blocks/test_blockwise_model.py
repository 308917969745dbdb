from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.conftest import CONFIGS, make_model
from tests.tiny_models import MAKERS, SEVERAL_SEGMENTS, blockwise, forward_inputs, make
from torch import Tensor
from torch.nn import functional
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel, XLNetConfig, XLNetLMHeadModel

from eckart.blocks.block_arguments import run_model
from eckart.blocks.blockwise_model import BlockwiseModel, Streams, rows_of
from eckart.blocks.losses import model_loss, predictions
from eckart.blocks.tensor_cache import ScratchSpace


def outputs_by_head(model: BlockwiseModel, streams: Streams) -> list[Tensor]:
    """Return what a model gives for each batch, from hidden states behind its blocks."""
    with model.head() as head, torch.no_grad():
        ends = model.ends_of(streams.behinds)
        return [
            predictions(head(inputs, {n: stream[number] for n, stream in ends.items()}))
            for number, inputs in enumerate(model.batches())
        ]


@pytest.mark.parametrize("kind", MAKERS)
def test_blocks_that_are_run_one_by_one_give_what_the_model_gives(kind: str) -> None:
    model, samples = make(kind)
    original = blockwise(model, samples)
    with torch.no_grad():
        expected = [predictions(run_model(model, forward_inputs(model, sample))) for sample in samples]
    for ours, theirs in zip(outputs_by_head(original, original.forward()), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    changed = next(ref for block in original.blocks for ref in block.linears)
    with torch.no_grad():  # the first of all blocks is looked at, however many are in between
        model.get_submodule(changed.path).get_parameter("weight").mul_(2)
        assert not torch.allclose(outputs_by_head(original, original.forward())[0], expected[0], rtol=1e-4)


@pytest.mark.parametrize("kind", CONFIGS)
def test_rows_of_tokens_are_run_in_batches(kind: str, tokens: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eckart.data.calibration.BATCH_TOKENS", 24 * 5)  # 12 samples as 5 + 5 + 2
    model = make_model(kind)
    original = blockwise(model, tokens)
    streams = original.forward()
    assert [len(hidden) for hidden in streams.behinds[-1]] == [5, 5, 2]
    with torch.no_grad():
        expected = model(tokens).logits
    torch.testing.assert_close(torch.cat(outputs_by_head(original, streams)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", SEVERAL_SEGMENTS)
def test_hidden_states_in_files_are_the_same(kind: str, tmp_path: Path) -> None:
    model, samples = make(kind)
    in_memory = blockwise(model, samples).forward()
    in_files = blockwise(model, samples, ScratchSpace(in_memory=False, folder=tmp_path)).forward()
    for ours, theirs in zip(in_files.behinds, in_memory.behinds, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(("kind", "one_by_one"), [("llama", False), ("bert", False), ("bart", True), ("t5", True)])
def test_rows_are_run_at_once_where_nothing_depends_on_them(kind: str, one_by_one: bool, tokens: Tensor) -> None:
    model, _ = make(kind)
    original = blockwise(model, tokens)
    assert original.known.one_by_one == one_by_one
    streams = original.forward()
    assert len(streams.behinds[-1]) == (12 if one_by_one else 1)
    with torch.no_grad():
        expected = predictions(run_model(model, forward_inputs(model, {"input_ids": tokens})))
    torch.testing.assert_close(torch.cat(outputs_by_head(original, streams)), expected, rtol=1e-4, atol=1e-5)


def test_samples_along_another_dimension_are_run_one_by_one(tokens: Tensor) -> None:
    """XLNet holds them along the second one of its hidden states."""
    config = XLNetConfig(vocab_size=256, d_model=32, n_layer=2, n_head=4, d_inner=48)
    model = XLNetLMHeadModel(config).eval()
    original = blockwise(model, tokens)
    assert original.known.one_by_one
    streams = original.forward()
    with torch.no_grad():
        expected = model(input_ids=tokens).logits
    torch.testing.assert_close(torch.cat(outputs_by_head(original, streams)), expected, rtol=1e-4, atol=1e-5)


def test_what_a_model_predicts() -> None:
    assert {kind: blockwise(*make(kind)).predicts_next for kind in ("llama", "llava", "masked", "bart", "vit")} == {
        "llama": True,
        "llava": True,
        "masked": False,
        "bart": False,
        "vit": False,
    }


@pytest.mark.parametrize("kind", ["llava", "swin"])
def test_hidden_states_are_as_many_and_as_wide_as_they_are(kind: str) -> None:
    model, samples = make(kind)
    original = blockwise(model, samples)
    streams = original.forward()
    sizes = [sum(hidden.numel() for hidden in stream) for stream in streams.behinds]
    assert 0.8 * max(sizes) <= original.stream_numbers <= 4 * max(sizes)  # a block may hand on fewer than it is handed
    assert [stream[0].shape[-1] for stream in streams.behinds] == [block.width for block in original.blocks]
    assert [stream[0].numel() // stream[0].shape[-1] for stream in streams.fronts] == [
        block.rows for block in original.blocks
    ]


def test_segments_are_those_of_the_towers() -> None:
    segments = {kind: [list(s) for s in blockwise(*make(kind)).segments] for kind in ("llama", "bart", "llava")}
    assert segments == {"llama": [[0, 1]], "bart": [[0, 1], [2, 3]], "llava": [[0, 1, 2], [3, 4]]}


def test_one_batch_alone_is_the_same(tokens: Tensor) -> None:
    model, samples = make("bart")
    original = blockwise(model, samples)
    (expected,) = outputs_by_head(original.batch(1), original.batch(1).forward())
    assert torch.equal(expected, outputs_by_head(original, original.forward())[1])
    cropped = original.cropped(2, 3)
    assert len(cropped.known) == 2
    assert not cropped.arguments


def test_losses_of_streams_are_those_of_the_model(llama: PreTrainedModel, tokens: Tensor) -> None:
    original = blockwise(llama, tokens)
    streams = original.forward()
    with torch.no_grad():
        logits = llama(tokens).logits[:, :-1].flatten(0, 1)
    expected = float(functional.cross_entropy(logits, tokens[:, 1:].flatten()))
    other = {2: [torch.zeros_like(hidden) for hidden in streams.behinds[-1]]}
    losses = original.mean_losses([original.ends_of(streams.behinds), other])
    assert losses[0] == pytest.approx(expected, rel=1e-5)
    assert losses[1] != pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize("kind", ["bart", "llava", "masked", "whisper"])
def test_losses_of_several_segments_are_those_of_the_model(kind: str) -> None:
    model, samples = make(kind)
    for sample in samples:
        if kind == "masked":
            sample["labels"] = sample["input_ids"].flip(1)
    original = blockwise(model, samples)
    total, count = 0.0, 0
    for sample, inputs in zip(samples, original.batches(), strict=True):
        with torch.no_grad():
            output = run_model(model, forward_inputs(model, sample))
        loss, made = model_loss(output, inputs, predicts_next=original.predicts_next)
        total, count = total + float(loss), count + made
    found = original.mean_losses([original.ends_of(original.forward().behinds)])
    assert found == pytest.approx([total / count], rel=1e-5)


def test_rows_of_a_batch_are_taken_apart() -> None:
    inputs, behind = {"input_ids": torch.arange(6).reshape(3, 2)}, {4: torch.randn(3, 2, 5)}
    rows = rows_of(inputs, behind, at_once=3)
    assert len(rows) == 3
    for number, (row, hidden) in enumerate(rows):
        assert torch.equal(row["input_ids"], inputs["input_ids"][number : number + 1])
        assert torch.equal(hidden[4], behind[4][number : number + 1])
    # What is run one by one may have no dimension for it.
    patches = {"pixel_values": torch.randn(16, 3), "image_grid_thw": torch.tensor([[1, 4, 4]])}
    ((row, hidden),) = rows_of(patches, behind, at_once=1)
    assert row.keys() == patches.keys()
    assert torch.equal(hidden[4], behind[4])


def test_running_blocks_leaves_the_model_as_it_was(llama: PreTrainedModel, tokens: Tensor) -> None:
    with torch.no_grad():
        before = llama(tokens).logits
        blockwise(llama, tokens).forward().delete_all()
        assert torch.equal(llama(tokens).logits, before)
    assert not [leaf for leaf in tree_leaves(vars(llama.model.layers[0])) if callable(leaf) and leaf is llama.forward]
