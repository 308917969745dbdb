"""The tokenizer of a GGUF file, from one of transformers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from tokenizers import Regex, pre_tokenizers

from eckart.checkpoint.gguf import PRE_TOKENIZERS
from eckart.data.context import token_embedding
from eckart.errors import ExportError

if TYPE_CHECKING:
    from gguf import GGUFWriter
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BYTES, PIECES = "gpt2", "llama"  # what files call tokens of bytes, and those of SentencePiece
PLAIN = "gpt-2"  # the way to split text that byte tokenizers have if nothing else is said
# Words, numbers, spaces, line ends, other scripts: ways to split text differ in one of them.
PROBE = "It's 12345 and 3.14159!\n\n  They'LL go\tto Zürich: f(x) = x**2; 北京 \U0001f600 end   \r\n x_y--z 'S"
TEXTS = (PROBE, "a word", " Once upon a time, there was a small model.", "def main():\n    return 1_000\n")


def add_tokenizer(writer: GGUFWriter, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
    """Add a tokenizer to a file.

    Raises:
        ExportError: it is of a kind that no GGUF file holds, or has more tokens than the model.
    """
    described = _described(tokenizer)
    pieces = described["model"].get("byte_fallback", False)
    tokens, kinds, scores = _tokens(tokenizer, described, model)
    writer.add_tokenizer_model(PIECES if pieces else BYTES)
    writer.add_tokenizer_pre("default" if pieces else _split_name(tokenizer))
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in described["model"]["merges"]]
    writer.add_token_scores(scores)
    if merges:  # an empty list is none in such a file
        writer.add_token_merges(merges)
    for token, add in (
        (tokenizer.bos_token_id, writer.add_bos_token_id),
        (tokenizer.eos_token_id, writer.add_eos_token_id),
        (tokenizer.unk_token_id, writer.add_unk_token_id),
        (tokenizer.pad_token_id, writer.add_pad_token_id),
    ):
        if token is not None:
            add(token)
    around = tokenizer("a")["input_ids"]
    writer.add_add_bos_token(bool(around) and around[0] == tokenizer.bos_token_id)
    writer.add_add_eos_token(len(around) > 1 and around[-1] == tokenizer.eos_token_id)
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)


def check_tokenizer(own: PreTrainedTokenizerBase, read: PreTrainedTokenizerBase) -> None:
    """Raise if the tokenizer that is read from a file is another one.

    Raises:
        ExportError: names a text that it makes other tokens of.
    """
    for text in TEXTS:
        expected, found = own(text)["input_ids"], read(text)["input_ids"]
        if expected != found:
            raise ExportError(
                f"The tokenizer in the GGUF file makes other tokens of {text!r}: found {found}, expected {expected}. "
                "No way to split text that such files name is that of this tokenizer. Nothing was kept."
            )


def _described(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    described: dict[str, Any] = json.loads(backend.to_str()) if backend is not None else {"model": {"type": "unknown"}}
    if described["model"]["type"] != "BPE":
        raise ExportError(
            f"The tokenizer is of the kind {described['model']['type']}; expected one that merges pairs (BPE), which "
            "transformers reads back from a GGUF file."
        )
    return described


def _tokens(
    tokenizer: PreTrainedTokenizerBase, described: dict[str, Any], model: PreTrainedModel
) -> tuple[list[str], list[int], list[float]]:
    """Return each token of the model, its type and its score: the earlier the merge that makes it, the higher."""
    from gguf import TokenType

    embedding = token_embedding(model)
    assert embedding is not None
    count, vocab = int(embedding.num_embeddings), tokenizer.get_vocab()  # type: ignore[arg-type]
    if max(vocab.values(), default=-1) >= count:
        raise ExportError(
            f"The tokenizer has token {max(vocab.values())}, and the model has {count}. Use the tokenizer that belongs "
            "to the model."
        )
    added = {entry["id"]: bool(entry["special"]) for entry in described["added_tokens"]}
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(described["model"]["merges"]):
        ranks.setdefault("".join(merge.split(" ") if isinstance(merge, str) else merge), rank)
    tokens, kinds, scores = [f"[PAD{n}]" for n in range(count)], [int(TokenType.UNUSED)] * count, [0.0] * count
    for token, place in vocab.items():
        tokens[place], scores[place] = token, float(-ranks.get(token, 0))
        if place in added:
            kinds[place] = int(TokenType.CONTROL if added[place] else TokenType.USER_DEFINED)
        elif described["model"].get("byte_fallback") and len(token) == 6 and token.startswith("<0x"):
            kinds[place] = int(TokenType.BYTE)
        else:
            kinds[place] = int(TokenType.NORMAL)
    return tokens, kinds, scores


def _split_name(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return what files call the way in which a tokenizer of bytes splits text; the plain way if none is the same."""
    split = tokenizer.backend_tokenizer.pre_tokenizer
    parts = None if split is None else split.pre_tokenize_str(PROBE)
    return next((name for name, made in _splits() if made().pre_tokenize_str(PROBE) == parts), PLAIN)


def _splits() -> Iterator[tuple[str, Callable[[], Any]]]:
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    yield PLAIN, lambda: pre_tokenizers.ByteLevel(add_prefix_space=False)
    yield from PRE_TOKENIZERS.items()
    for name, expression in GGUF_PRE_TOKENIZER_SPLITS.items():
        yield name, partial(_by, expression)


def _by(expression: str) -> Any:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(expression), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
