"""Tables in few bits: what is said to be lost against the model run with them, and what is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import make_model
from torch.nn import functional
from transformers import AutoModelForCausalLM, PreTrainedModel, T5Config, T5ForConditionalGeneration

import eckart
from eckart.blocks.blockwise_model import BlockwiseModel
from eckart.blocks.onload import ResidentWeights
from eckart.blocks.tensor_cache import ScratchSpace
from eckart.checkpoint.records import read_records
from eckart.compression.embedding import RoundedTables, head_moment, losses_of_tables
from eckart.compression.plan import make_plan
from eckart.data.calibration import Calibration
from eckart.errors import EckartWarning
from eckart.layers import QuantizedEmbedding
from eckart.layers.vocabulary import find_vocabulary, original_tables
from eckart.methods.precision import Bits4, Bits8, Bits16


def blockwise(model: PreTrainedModel, tokens: torch.Tensor | None) -> BlockwiseModel:
    plan = make_plan(model, eckart.load_recipe("svd"), 0.5)
    known = None if tokens is None else Calibration(tokens, "tokens", 0)
    return BlockwiseModel(model, plan.blocks, ResidentWeights(), torch.device("cpu"), ScratchSpace(), known)


@pytest.mark.parametrize("kind", ["llama", "gemma3", "gpt2"])
def test_the_loss_is_how_far_predictions_move(kind: str, tokens: torch.Tensor) -> None:
    model = make_model(kind)
    found = find_vocabulary(model)
    assert found is not None
    run = blockwise(model, tokens[:4])
    modules = dict(model.named_modules())
    losses = losses_of_tables(run, found, [Bits16(), Bits8(), Bits4(group=8)])
    assert dict(model.named_modules()) == modules
    assert losses[0] == 0 < losses[1] < losses[2]
    with torch.no_grad(), original_tables(model, found):
        before = model(tokens[:4]).logits.log_softmax(-1)
        tables = RoundedTables.of(run, found, Bits4(group=8), None)
        assert tables is not None
        tables.put_into(run)
        after = model(tokens[:4]).logits.log_softmax(-1)
    expected = functional.kl_div(after, before, log_target=True, reduction="sum") / tokens[:4].numel()
    assert losses[2] == pytest.approx(float(expected), rel=1e-4)


def test_the_moment_is_that_of_what_the_head_is_handed(tokens: torch.Tensor) -> None:
    model = make_model("llama")
    found = find_vocabulary(model)
    assert found is not None
    with torch.no_grad():
        hidden = model.model(tokens)[0].flatten(0, 1).double()
    moment = head_moment(blockwise(model, tokens), found)
    assert moment is not None
    torch.testing.assert_close(moment, hidden.T @ hidden, rtol=1e-4, atol=1e-4)
    assert head_moment(blockwise(model, None), found) is None


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
@pytest.mark.parametrize("precision", ["8-bit", "{name: 4-bit, group: 8, scale_bits: 8}"])
def test_what_is_written_loads_and_is_saved_again(
    kind: str, precision: str, tokens: torch.Tensor, tmp_path: Path
) -> None:
    model = make_model(kind)
    report = eckart.compress(model, "svd-llm", 0.8, tokens, overrides=[f"embedding={precision}"])
    assert report.embedding is not None
    assert isinstance(model.get_input_embeddings(), QuantizedEmbedding)
    eckart.save(model, report, tmp_path / "first")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "first")
    loaded.save_pretrained(tmp_path / "second")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "second")
    with torch.no_grad():
        expected = model(tokens).logits
        for other in (loaded, again):
            assert torch.equal(other(tokens).logits, expected)
        dense = again.dequantize()
        torch.testing.assert_close(dense(tokens).logits, expected, rtol=1e-3, atol=1e-3)
        dense.save_pretrained(tmp_path / "dense")
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / "dense")
        assert torch.equal(plain(tokens).logits, dense(tokens).logits)
    assert read_records(tmp_path / "first").embedding == report.embedding


def test_from_disk_it_is_the_same_and_its_bytes_are_counted(
    model_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"calibration": str(text_file), "samples": 8, "length": 24}
    for name, overrides in (("codes", ["embedding=8-bit"]), ("plain", [])):
        eckart.compress_checkpoint(
            model_folder, tmp_path / name, "svd-llm", 0.8, overrides=overrides, dtype=torch.bfloat16, **options
        )
    sizes, reports = {}, {}
    for name in ("codes", "plain"):
        sizes[name] = sum(path.stat().st_size for path in (tmp_path / name).glob("*.safetensors"))
        reports[name] = read_records(tmp_path / name)
    assert reports["plain"].embedding is None
    assert "embedding" not in reports["plain"].model_dump()
    won = reports["plain"].whole_bytes_after - reports["codes"].whole_bytes_after
    assert abs(sizes["plain"] - sizes["codes"] - won) < 500  # of headers
    model = eckart.load_model(model_folder, dtype=torch.bfloat16)
    eckart.compress(model, "svd-llm", 0.8, overrides=["embedding=8-bit"], **options)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "codes")
    assert torch.equal(model.get_input_embeddings().weight, loaded.get_input_embeddings().weight)


def test_an_embedding_that_cannot_be_rounded_stays_and_is_told() -> None:
    torch.manual_seed(0)
    config = T5Config(vocab_size=40, d_model=32, d_ff=64, d_kv=8, num_layers=1, num_heads=4)
    model = T5ForConditionalGeneration(config)
    before = model.shared.weight.clone()
    with pytest.warns(EckartWarning, match="and the model has none, or one whose weight more than a head shares"):
        report = eckart.compress(model, "svd", 0.8, overrides=["embedding=8-bit"])
    assert report.embedding is None
    assert torch.equal(model.shared.weight, before)
