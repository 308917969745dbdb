"""GGUF files, as the library of llama.cpp writes them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from tests.conftest import make_model
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from eckart.checkpoint.gguf import load_gguf_model, load_gguf_tokenizer
from eckart.errors import CheckpointError

gguf = pytest.importorskip("gguf")

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def interleaved(weight: Tensor, heads: int) -> Tensor:
    """Return the rows of a projection in the order in which llama.cpp rotates them: by pairs, not by halves."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns)


def write_model(path: Path, model: PreTrainedModel) -> None:
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for name, tensor in model.state_dict().items():
        place, _, leaf = name.removeprefix("model.layers.").rpartition(".")
        number, _, inside = place.partition(".")
        known = NAMES.get(inside if number.isdigit() else place, "")
        tensor = interleaved(tensor, heads[known]) if known in heads else tensor
        writer.add_tensor(f"blk.{number}.{known}.{leaf}" if number.isdigit() else f"{known}.{leaf}", tensor.numpy())
    finish(writer)


def finish(writer: object) -> None:
    for step in ("write_header_to_file", "write_kv_data_to_file", "write_tensors_to_file", "close"):
        getattr(writer, step)()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_floats_of_the_dtype_and_the_model_is_plain(
    dtype: torch.dtype, tmp_path: Path, tokens: Tensor
) -> None:
    expected = make_model("llama")
    write_model(tmp_path / "m.gguf", expected)
    model = load_gguf_model(tmp_path / "m.gguf", dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert getattr(model, "hf_quantizer", None) is None
    assert getattr(model.config, "quantization_config", None) is None
    theirs = expected.to(dtype).state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in model.state_dict().items())
    if dtype is torch.float32:  # `to` narrows what turns positions into angles too
        with torch.no_grad():
            assert torch.equal(model.eval()(tokens).logits, expected(tokens).logits)


def test_a_file_that_is_none_is_said(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + bytes(40))
    with pytest.raises(CheckpointError, match=r"m\.gguf cannot be read as a GGUF model: "):
        load_gguf_model(tmp_path / "m.gguf", torch.float32)


def test_the_extra_that_reads_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(tmp_path / "m.gguf", make_model("llama"))
    monkeypatch.setattr("transformers.modeling_gguf_pytorch_utils.is_gguf_available", lambda *_, **__: False)
    with pytest.raises(CheckpointError, match=r"m\.gguf needs an extra: pip install 'eckart\[gguf\]'"):
        load_gguf_model(tmp_path / "m.gguf", torch.float32)


@pytest.mark.skipif(sys.platform == "win32", reason="makes a link")
def test_a_file_beside_it_that_must_not_be_opened_is_not(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    write_model(folder / "m.gguf", make_model("llama"))
    (tmp_path / "mine.json").write_text("{}")
    (folder / "config.json").symlink_to(tmp_path / "mine.json")
    for load in (lambda path: load_gguf_model(path, torch.float32), load_gguf_tokenizer):
        with pytest.raises(CheckpointError, match=r"config\.json is outside the folder"):
            load(folder / "m.gguf")


def tokenizer(path: Path, split: str | None) -> PreTrainedTokenizerBase:
    """Write a tokenizer that knows the pair 12, and read it."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    if split is not None:
        writer.add_tokenizer_pre(split)
    words = ["<end>", *"0123456789ab", "Ġ", "12", "ab"]
    writer.add_token_list(words)
    writer.add_token_types([3] + [1] * (len(words) - 1))
    writer.add_token_merges(["1 2", "a b"])
    for add in (writer.add_bos_token_id, writer.add_eos_token_id, writer.add_unk_token_id, writer.add_pad_token_id):
        add(0)
    finish(writer)
    return load_gguf_tokenizer(path)


@pytest.mark.parametrize(
    ("split", "expected"), [("smollm", ["1", "2", "ab"]), ("gpt-2", ["12", "ab"]), (None, ["12", "ab"])]
)
def test_text_is_split_as_the_file_says(split: str | None, expected: list[str], tmp_path: Path) -> None:
    assert tokenizer(tmp_path / "m.gguf", split).tokenize("12ab") == expected
