from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import CONFIGS, make_model
from tests.run.check import architectures
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

import eckart
from eckart.blocks.discovery import block_lists, find_blocks
from eckart.compression.plan import make_plan
from eckart.errors import CalibrationError, EckartError, NonFiniteError
from eckart.methods.recipes.loader import load_recipe
from eckart.run.compress_checkpoint import compress_checkpoint


class NeverStarted(eckart.Callback):
    def on_start(self, *_: object) -> None:
        pytest.fail("the run has started")


WEIGHTS = {
    "final norm": "model.norm.weight",
    "embedding": "model.embed_tokens.weight",
    "head": "lm_head.weight",
    "a linear": "model.layers.2.mlp.up_proj.weight",
    "a norm of a block": "model.layers.1.input_layernorm.weight",
}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", WEIGHTS.values(), ids=WEIGHTS)
def test_a_weight_that_is_no_number_is_named_before_the_start(
    llama: PreTrainedModel, tokens: Tensor, name: str, value: float
) -> None:
    with torch.no_grad():
        llama.get_parameter(name)[-1] = value
    path, _, leaf = name.rpartition(".")
    for recipe in ("svd", "eckart-fast"):  # without data, and with all the probes that there are
        with pytest.raises(NonFiniteError, match=rf"The {leaf} of {path} is NaN or infinite"):
            eckart.compress(llama, recipe, 0.6, tokens, callback=NeverStarted())


@pytest.mark.parametrize("name", ["model.norm.weight", "model.layers.2.mlp.up_proj.weight"])
def test_a_weight_that_is_no_number_is_named_on_disk(model_folder: Path, tmp_path: Path, name: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    with torch.no_grad():
        model.get_parameter(name)[-1] = torch.nan
    model.save_pretrained(model_folder)
    with pytest.raises(NonFiniteError, match=name.rpartition(".")[0]):
        compress_checkpoint(model_folder, tmp_path / "out", "svd", 0.6, callback=NeverStarted())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_large_weights_and_empty_ones_are_numbers(dtype: torch.dtype) -> None:
    model = make_model("llama").to(dtype)
    with torch.no_grad():
        model.model.norm.weight[0] = torch.finfo(dtype).max
    model.register_parameter("empty", nn.Parameter(torch.zeros(0, 3)))
    assert make_plan(model, load_recipe("svd"), 0.6).blocks


def test_samples_that_are_longer_than_the_positions_are_refused(llama: PreTrainedModel) -> None:
    ids = torch.zeros(2, 129, dtype=torch.int64)
    with pytest.raises(CalibrationError, match=r"129 tokens do not fit into the model's context of 128"):
        eckart.compress(llama, "svd-llm", 0.6, ids, callback=NeverStarted())


@pytest.mark.parametrize("wrong", [256, -1])
def test_ids_that_the_embedding_lacks_are_refused(llama: PreTrainedModel, tokens: Tensor, wrong: int) -> None:
    tokens[3, 5] = wrong
    for recipe in ("svd-llm", "eckart-fast"):
        with pytest.raises(CalibrationError, match=rf"token id {wrong}, and the model's embedding has 256 rows"):
            eckart.compress(llama, recipe, 0.6, tokens, callback=NeverStarted())


def test_a_tokenizer_of_another_model_is_refused(
    tokenizer: PreTrainedTokenizerFast, text_file: Path, tmp_path: Path
) -> None:
    config = CONFIGS["llama"]()
    config.vocab_size = 64  # of bytes, letters come behind
    folder = tmp_path / "small"
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    options: dict[str, Any] = {"samples": 4, "length": 16}
    with pytest.raises(CalibrationError, match="use the tokenizer that belongs to the model"):
        compress_checkpoint(folder, tmp_path / "out", "svd-llm", 0.6, str(text_file), **options)


@pytest.mark.parametrize("kind", CONFIGS)
def test_what_is_known_of_a_model(kind: str, tokens: Tensor) -> None:
    model = make_model(kind)
    ((path, modules),) = block_lists(model)
    report = eckart.compress(make_model(kind), "svd-llm", 1.0, tokens)
    check = report.check
    assert check is not None
    assert check.model_bytes == sum(p.numel() * p.element_size() for p in model.parameters())
    assert check.block_bytes == sum(p.numel() * p.element_size() for p in modules.parameters())
    assert check.reached_bytes == sum(4 * layer.out_features * layer.in_features for layer in report.layers)
    assert check.reached_bytes + sum(check.stays.values()) == check.model_bytes
    assert list(check.stays.values()) == sorted(check.stays.values(), reverse=True)
    assert not [place for place in check.stays if any(character.isdigit() for character in place.rsplit(".")[-1][:1])]
    assert (check.length, check.positions, check.vocabulary) == (24, 128, 256)
    assert check.largest_id == int(tokens.max())
    assert not check.unused
    assert not check.towers
    assert not check.notes
    assert check.summary.startswith("Checked: weights are finite; compression reaches ")
    assert f"{path}.*" in "".join(check.stays)
    assert "hidden_states" not in check.arguments


def test_it_is_stored_in_the_result(model_folder: Path, tmp_path: Path) -> None:
    report = compress_checkpoint(model_folder, tmp_path / "out", "svd", 0.6)
    stored = eckart.CompressionResult.model_validate_json((tmp_path / "out" / "eckart" / "report.json").read_text())
    assert stored.check == report.check
    assert stored.check is not None
    assert stored.check.length is None  # nothing looked at text
    older = report.model_dump(mode="json")
    older.pop("check")
    assert eckart.CompressionResult.model_validate(older).check is None


@pytest.mark.parametrize("recipe", ["svd-llm", "eckart-fast"])
def test_an_argument_that_depends_on_the_text_changes_nothing_by_itself(
    llama: PreTrainedModel, tokens: Tensor, recipe: str
) -> None:
    samples = [{"input_ids": row[None]} for row in tokens]
    plain = make_model("llama")
    architectures.hand_over_ids(llama)
    found, expected = (eckart.compress(model, recipe, 0.6, samples) for model in (llama, plain))
    assert [layer.rank for layer in found.layers] == [layer.rank for layer in expected.layers]
    assert all(torch.equal(tensor, plain.state_dict()[name]) for name, tensor in llama.state_dict().items())


def test_a_failure_of_a_model_is_no_traceback(llama: PreTrainedModel, tokens: Tensor) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyError("pixels")

    llama.model.layers[1].forward = fail
    with pytest.raises(EckartError, match=r"cannot be run on input_ids alone \(KeyError: 'pixels'\)"):
        eckart.compress(llama, "svd-llm", 0.6, tokens)


@pytest.mark.parametrize("build", [architectures.mamba, architectures.bamba, architectures.recurrent_gemma])
def test_a_block_without_attention_is_causal(build: Callable[[], PreTrainedModel]) -> None:
    assert find_blocks(architectures.made(build))[0].causal


@pytest.mark.parametrize("kind", CONFIGS)
def test_decoders_are_causal_in_any_precision(kind: str) -> None:
    assert find_blocks(make_model(kind))[0].causal
    assert find_blocks(make_model(kind).bfloat16())[0].causal


def test_a_failure_on_longer_samples_says_so(tokens: Tensor) -> None:
    model = make_model("gpt2")
    model.config.n_positions = 4096  # 128 are there
    with pytest.raises(EckartError, match=r"GPT2LMHeadModel fails on 200 tokens \(IndexError: .*smaller --length"):
        eckart.compress(model, "svd-llm", 0.6, tokens.repeat(1, 200)[:, :200])
