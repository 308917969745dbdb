"""Layers are put where a config names their places, and what it cannot mean is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import make_model
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

import eckart
from eckart.checkpoint.config import RoundedEmbedding
from eckart.checkpoint.places import expand, find_linear, join, linears_of, round_tables, spellings
from eckart.errors import CheckpointError, EckartWarning
from eckart.layers import QuantizedEmbedding, QuantizedLinear, TiedHead
from eckart.maths.quantization import QuantScheme


@pytest.fixture
def saved(tmp_path: Path, tokens: torch.Tensor) -> Path:
    """A model whose embedding and head have 8 bits, and are apart."""
    model = make_model("llama")
    report = eckart.compress(model, "svd-llm", 0.8, tokens, overrides=["embedding=8-bit"])
    eckart.save(model, report, tmp_path / "small")
    return tmp_path / "small"


def changed(folder: Path, **changes: Any) -> Path:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    embedding = config["quantization_config"]["embedding"]
    config["quantization_config"]["embedding"] = {**embedding, **changes}
    path.write_text(json.dumps(config))
    return folder


def test_a_path_is_found_with_and_without_the_prefix_of_the_base_model() -> None:
    model = make_model("llama")
    assert spellings(model, "model.layers.0") == ("model.layers.0", "layers.0", "model.model.layers.0")
    name = "layers.0.mlp.up_proj"
    assert find_linear(model, linears_of(model), name) == f"model.{name}"
    with pytest.raises(CheckpointError, match=r"names the linear layer 'nowhere', but LlamaForCausalLM has none"):
        find_linear(model, linears_of(model), "nowhere")


def test_what_cannot_be_joined_or_expanded() -> None:
    model = make_model("llama")
    with pytest.raises(CheckpointError, match=r"says that .* were fused, but"):
        join(model, ["model.layers.0.mlp.up_proj", "model.layers.0.mlp.down_proj"], 2)
    with pytest.raises(CheckpointError, match=r"the parameter 'nowhere' is expanded, but LlamaForCausalLM has none"):
        expand(model, "nowhere", {"number": 2, "transposed": False})


def test_tables_go_where_the_class_has_them(saved: Path) -> None:
    whole = AutoModelForCausalLM.from_pretrained(saved)
    assert isinstance(whole.lm_head, QuantizedLinear)
    base = AutoModel.from_pretrained(saved)
    assert isinstance(base.embed_tokens, QuantizedEmbedding)
    assert torch.equal(base.embed_tokens.weight, whole.model.embed_tokens.weight)


def test_a_tied_head_is_no_table_of_its_own() -> None:
    model = make_model("gemma3")
    stored = RoundedEmbedding(path="model.embed_tokens", head="lm_head", tied=True, precision="8-bit")
    round_tables(model, stored, QuantScheme(8))
    assert isinstance(model.lm_head, TiedHead)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": "model.norm"}, r"says that the embedding 'model\.norm' is stored in few bits, but LlamaForCausalLM"),
        ({"path": "nowhere"}, r"has no embedding of that name"),
        ({"precision": "16-bit"}, r"or the precision has none"),
        ({"precision": "9-bit"}, r"names the precision '9-bit'"),
        ({"head": "model.layers.0.mlp.up_proj"}, r"has there no linear layer over 256 tokens of width 32"),
        ({"head": None}, r"lm_head"),
        ({"head": "nowhere"}, r"lm_head"),
        ({"tied": True}, r"lm_head"),
        ({"tied": 1}, r"quantization_config\.embedding\.tied = 1"),
        ({"bits": 8}, r"quantization_config\.embedding\.bits"),
    ],
    ids=str,
)
def test_damaged_descriptions_are_refused(saved: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        AutoModelForCausalLM.from_pretrained(changed(saved, **changes))


def test_other_classes_take_what_they_have(saved: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(saved)
    assert isinstance(model.model.embed_tokens, QuantizedEmbedding)


def test_a_head_of_another_class_has_the_table_that_it_is_tied_to(tmp_path: Path, tokens: torch.Tensor) -> None:
    """A base model has no head, and its folder names none."""
    whole = make_model("gemma3")
    whole.model.save_pretrained(tmp_path / "base")
    base = AutoModel.from_pretrained(tmp_path / "base")
    report = eckart.compress(base, "svd-llm", 0.9, tokens, overrides=["embedding=8-bit"])
    assert report.embedding is not None
    assert report.embedding.head is None
    eckart.save(base, report, tmp_path / "small")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "small")
    assert isinstance(model.lm_head, TiedHead)
    with torch.no_grad():
        expected = base(tokens).last_hidden_state @ base.embed_tokens.weight.T
        torch.testing.assert_close(model(tokens).logits, expected, rtol=1e-4, atol=1e-4)


def test_an_embedding_that_is_no_longer_described_is_refused(saved: Path) -> None:
    path = saved / "config.json"
    config = json.loads(path.read_text())
    del config["quantization_config"]["embedding"]
    path.write_text(json.dumps(config))
    for kind in (AutoModel, AutoModelForCausalLM):
        with pytest.raises(CheckpointError, match=r"hold .*\.codes, and by config\.json .* is not in few bits"):
            kind.from_pretrained(saved)


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_a_rounded_embedding_is_dense_once_it_is_resized(kind: str, tokens: torch.Tensor, tmp_path: Path) -> None:
    model = make_model(kind)
    report = eckart.compress(model, "svd-llm", 0.8, tokens, overrides=["embedding=8-bit"])
    before = model(tokens).logits
    with pytest.warns(EckartWarning, match="it is in 16 bits from here on"):
        model.resize_token_embeddings(300)
    after = model(tokens).logits
    assert after.shape[-1] == 300
    torch.testing.assert_close(after[..., :256], before, rtol=1e-4, atol=1e-4)
    eckart.save(model, report, tmp_path / "resized")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "resized")
    assert torch.equal(loaded(tokens).logits, after)
