"""A tokenizer in a GGUF file is the one that it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests import tiny
from tests.conftest import byte_tokenizer, make_model
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE, WordLevel
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from eckart.checkpoint.gguf import PRE_TOKENIZERS, load_gguf_tokenizer
from eckart.errors import ExportError
from eckart.runtimes.gguf import compare_gguf, write_gguf
from eckart.runtimes.gguf_tokenizer import TEXTS, _split_name, check_tokenizer

pytest.importorskip("gguf")


def merging(split: Any = None) -> PreTrainedTokenizerFast:
    """Return a tokenizer of bytes with a few merges and a special token."""
    merges = [("a", "n"), ("an", "d"), ("Ġ", "w"), ("1", "2"), ("12", "3")]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())[: 256 - len(merges) - 1]
    alphabet = sorted({*"andw123Ġ", *alphabet})
    vocab = {token: i for i, token in enumerate([*alphabet, *("".join(pair) for pair in merges), "<end>"])}
    backend = Tokenizer(BPE(vocab=vocab, merges=merges))
    backend.pre_tokenizer = split or pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")


@pytest.mark.parametrize("split", [None, *PRE_TOKENIZERS])
def test_merges_specials_and_splits_are_read_back(split: str | None, tmp_path: Path) -> None:
    own = merging(PRE_TOKENIZERS[split]() if split else None)
    assert _split_name(own) == (split or "gpt-2")
    read = load_gguf_tokenizer(write_gguf(make_model("llama"), own, tmp_path))
    check_tokenizer(own, read)
    text = "sand and 123 <end> 1123"
    assert read(text)["input_ids"] == own(text)["input_ids"]
    assert read.eos_token_id == own.eos_token_id


def test_a_chat_template_goes_with_it(tmp_path: Path) -> None:
    model, _ = tiny.make("llama")
    own = tiny.tokenizer(chat=tiny.CHAT)
    read = load_gguf_tokenizer(write_gguf(model, own, tmp_path))
    assert read.chat_template == tiny.CHAT


def test_another_tokenizer_is_told_from_it() -> None:
    with pytest.raises(ExportError, match="makes other tokens of"):
        check_tokenizer(byte_tokenizer(), merging())
    assert len(TEXTS) > 2


def test_kinds_that_no_file_holds_are_refused(tmp_path: Path) -> None:
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0}, unk_token="a")))
    with pytest.raises(ExportError, match="of the kind WordLevel; expected one that merges pairs"):
        write_gguf(make_model("llama"), words, tmp_path)


def test_a_tokenizer_that_is_read_as_another_kind_is_refused(tmp_path: Path) -> None:
    pieces = T5ForConditionalGeneration(T5Config(vocab_size=256, d_model=8, d_ff=8, d_kv=4, num_layers=1, num_heads=2))
    path = write_gguf(pieces, byte_tokenizer(), tmp_path)
    with pytest.raises(
        ExportError, match=r"of t5 models cannot hold this tokenizer: .* Export the model to onnx.* or d"
    ):
        compare_gguf(pieces, byte_tokenizer(), [], path)


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    own = byte_tokenizer()
    own.add_tokens(["more"])
    with pytest.raises(ExportError, match="has token 256, and the model has 256"):
        write_gguf(make_model("llama"), own, tmp_path)
