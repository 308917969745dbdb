"""What becomes of a model of each kind: it is compressed and loads again, or is refused by name before the start."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
import transformers as t
from tests.run.check import architectures as a
from tests.tiny_models import MAKERS, SEVERAL_SEGMENTS, forward_inputs, make
from torch.utils._pytree import tree_leaves

import eckart
from eckart.errors import EckartError, EckartWarning

PLAIN, BY_GRADIENTS = "svd-llm", "io-svd"


def with_ids() -> t.PreTrainedModel:
    """Return a model whose second block is handed the token ids."""
    model = a.llama(t.LlamaForCausalLM)
    a.hand_over_ids(model)
    return model


COMPRESSED: dict[str, tuple[Callable[[], t.PreTrainedModel], str]] = {
    "language model beside a shallow tower": (partial(a.llava, 2), PLAIN),
    "language model beside a deep tower": (partial(a.llava, 3), BY_GRADIENTS),
    "language model beside a tower as near": (a.git, BY_GRADIENTS),
    "positions by another name": (a.whisper_decoder, PLAIN),
    "positions behind padding": (a.roberta, BY_GRADIENTS),
    "encoder": (partial(a.bert, t.BertForMaskedLM), PLAIN),
    "encoder as a decoder": (partial(a.bert, t.BertLMHeadModel, is_decoder=True), BY_GRADIENTS),
    "classifier": (partial(a.llama, t.LlamaForSequenceClassification), PLAIN),
    "no head": (partial(a.llama, t.LlamaModel), PLAIN),
    "subclass of linear": (a.falcon, BY_GRADIENTS),
    "initialisation reads biases": (a.recurrent_gemma, PLAIN),
    "initialisation by names": (a.xlstm, PLAIN),
    "weight used without its layer": (a.mamba, PLAIN),
    "biases read": (partial(a.mamba2, use_bias=True), BY_GRADIENTS),
    "hybrid": (a.bamba, PLAIN),
    "layers without gradients, not asked": (a.deepseek_v32, PLAIN),
    "layers without gradients": (a.deepseek_v32, BY_GRADIENTS),
    "fused experts": (a.mixtral, PLAIN),
    "more fused experts": (a.qwen3_moe, BY_GRADIENTS),
    "fused experts with biases": (a.gpt_oss, PLAIN),
    "merged in original checkpoints": (a.sarvam_moe, PLAIN),
    "encoder that is merged": (a.nomic_bert, PLAIN),
    "encoder-decoder": (a.t5, PLAIN),
    "encoder-decoder that runs on ids": (a.bart, BY_GRADIENTS),
    "several hidden states": (a.gemma3n, BY_GRADIENTS),
    "repeated blocks": (a.hrm_text, PLAIN),
    "repeated blocks with gradients in the last round": (a.hrm_text, BY_GRADIENTS),
    "encoder by gradients": (partial(a.bert, t.BertForMaskedLM), BY_GRADIENTS),
    "encoder without logits": (partial(a.bert, t.BertModel), BY_GRADIENTS),
    "classifier by gradients": (partial(a.bert, t.BertForSequenceClassification), BY_GRADIENTS),
    "classifier of tokens": (partial(a.llama, t.LlamaForTokenClassification), BY_GRADIENTS),
    "no head by gradients": (partial(a.llama, t.LlamaModel), BY_GRADIENTS),
    "an argument that depends on the text": (with_ids, BY_GRADIENTS),
}

REFUSED: dict[str, tuple[Callable[[], t.PreTrainedModel], str]] = {
    "sound": (a.whisper, r"cannot be run on .*input_ids.* alone .*Calibrate on samples that hold"),
    "images": (a.vit, "ViTForImageClassification is not run on those alone"),
    "images and text": (a.clip, "CLIPModel is not run on those alone"),
    "waves": (a.wav2vec2, "Wav2Vec2Model is not run on those alone"),
    "a prompt of its own": (a.cpmant, r"CpmAnt\w+ cannot be run on input_ids alone .IndexError"),
}


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(10, 200, (8, 16), generator=torch.Generator().manual_seed(1))


def outputs(model: t.PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(**forward_inputs(model, {"input_ids": ids}))[0]
    return found


@pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning")
@pytest.mark.parametrize("kind", COMPRESSED)
def test_compressed_and_loaded_again(kind: str, ids: torch.Tensor, tmp_path: Path) -> None:
    build, recipe = COMPRESSED[kind]
    model = a.made(build)
    before = outputs(model, ids)
    report = eckart.compress(model, recipe, 0.6, ids, overrides=["allocation.multiple=1"])
    assert report.check is not None
    assert report.check.share_of_blocks > 0.5
    assert any(layer.rank is not None for layer in report.layers)
    found = outputs(model, ids)
    assert not torch.equal(found, before)
    eckart.save(model, report, tmp_path / "smaller")
    loaded = type(model).from_pretrained(tmp_path / "smaller").eval()
    assert torch.equal(outputs(loaded, ids), found)


@pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning")
@pytest.mark.parametrize("recipe", [PLAIN, BY_GRADIENTS])
@pytest.mark.parametrize("kind", MAKERS)
def test_on_samples_of_all_that_it_takes(kind: str, recipe: str, tmp_path: Path) -> None:
    model, samples = make(kind)
    report = eckart.compress(model, recipe, 0.6, samples, overrides=["allocation.multiple=1"])
    assert report.check is not None
    assert report.check.share_of_blocks > 0.9
    assert not report.check.unused
    assert not report.check.towers
    lists = {re.split(r"\.(?:layers?|blocks?)\.", layer.path)[0] for layer in report.layers}
    assert (len(lists) > 1) == (kind in SEVERAL_SEGMENTS)
    eckart.save(model, report, tmp_path / "smaller")
    loaded = type(model).from_pretrained(tmp_path / "smaller").eval()
    inputs = forward_inputs(model, samples[0])
    with torch.no_grad():
        for found, expected in zip(tensors_of(loaded(**inputs)), tensors_of(model(**inputs)), strict=True):
            # To the last bit but for processors whose products depend on where a tensor begins.
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def tensors_of(output: object) -> list[torch.Tensor]:
    """Return all tensors in what a model returned."""
    found = [leaf for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor)]
    assert found
    return found


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_before_anything_is_measured(kind: str, ids: torch.Tensor) -> None:
    build, message = REFUSED[kind]
    model = a.made(build)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    callback = eckart.Callback()
    callback.on_start = lambda *_: pytest.fail("the run has started")  # type: ignore[method-assign]
    with pytest.raises(EckartError, match=message):
        eckart.compress(model, PLAIN, 0.6, ids, callback=callback)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning")
@pytest.mark.parametrize("build", [a.mixtral, a.qwen3_moe, a.gpt_oss])
def test_experts_are_reached(build: Callable[[], t.PreTrainedModel], ids: torch.Tensor) -> None:
    report = eckart.compress(a.made(build), PLAIN, 0.6, ids)
    assert report.check is not None
    assert report.check.share_of_blocks > 0.95
    assert any(".experts.down_proj.3" in layer.path for layer in report.layers)


def test_a_tower_is_named(ids: torch.Tensor) -> None:
    with pytest.warns(EckartWarning, match=r"Blocks in model\.vision_tower stay as they are"):
        report = eckart.compress(a.made(partial(a.llava, 3)), PLAIN, 0.6, ids)
    assert all(layer.path.startswith("model.language_model.layers.") for layer in report.layers)


def test_layers_without_gradients_stay_only_where_gradients_are_taken(ids: torch.Tensor) -> None:
    by_recipe = {}
    for recipe in (PLAIN, BY_GRADIENTS):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", EckartWarning)
            report = eckart.compress(a.made(a.deepseek_v32), recipe, 0.6, ids)
        assert report.check is not None
        by_recipe[recipe] = ({layer.path.split(".", 3)[-1] for layer in report.layers}, report.check.unused)
    plain, by_gradients = by_recipe[PLAIN], by_recipe[BY_GRADIENTS]
    without = {name for name in plain[0] if "indexer" in name}
    assert without
    assert by_gradients[0] == plain[0] - without
    assert {path.split(".", 3)[-1] for path in by_gradients[1]} == without
    assert not plain[1]


def test_what_stays_of_the_blocks_is_said_where_it_is_not_little(ids: torch.Tensor, tmp_path: Path) -> None:
    model = a.made(a.whisper_decoder)
    with pytest.warns(EckartWarning, match=r"A part of the blocks stays as it is: .*encoder_attn\.q_proj"):
        report = eckart.compress(model, "svd", 0.6)
    assert report.check is not None
    assert 0.5 < report.check.share_of_blocks < 0.9
    assert any("encoder_attn" in note for note in report.warnings)
    eckart.save(model, report, tmp_path / "smaller")
    reached = f"| reached | {report.check.share_of_model:.1%} of the weights' bytes"
    assert reached in (tmp_path / "smaller" / "README.md").read_text()
    dense = a.made(partial(a.llama, t.LlamaForCausalLM))
    eckart.save(dense, eckart.compress(dense, "svd", 0.6), tmp_path / "dense")
    assert "| reached |" not in (tmp_path / "dense" / "README.md").read_text()
