"""Perplexity by the protocol of LowRankArena, ``contiguous_ppl 1.0``, word for word, and what a row has to say.

- WikiText-2: the rows of the raw test split joined by two newlines, as one text.
- C4: validation, from document 0 on, documents that are not empty, joined by the tokens of two newlines; of all that
  the first 262,144 tokens.
- No special token, so no BOS, and no chat template.
- Blocks of 2048 tokens without overlap; what is left at the end is dropped. One block at a time, in the dtype that the
  model is stored in. The first token of a block is not predicted.
- Perplexity is exp(sum of the losses / number of predictions), 2047 of them a block.
- The SHA-256 of the tokens of all blocks is recorded. The protocol does not say of which bytes: here they are those of
  the ids as little-endian 64-bit integers.

Numbers compare with those of the arena only on its models, and with the files that it names (revision b08601e0 of
WikiText, 1588ec45 of C4). Its budget is a share of the projections of all blocks, met within 0.001, in 16 bits, without
recovery; what of that a row departs from is a field of it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from eckart.data.calibration import Calibration
from eckart.data.rows import json_rows
from eckart.data.text import read_text
from eckart.errors import EckartError
from eckart.methods.recipe import Recipe

RUNNER = "contiguous_ppl 1.0"
LENGTH = 2048
C4_TOKENS = 262_144
BETWEEN = "\n\n"
MOST_MISSED = 1e-3  # of the share of parameters that was asked for


def plain_ids(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids of a text without special tokens."""
    ids: list[int] = tokenizer(text, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
    return ids


def ids_of_text(text: str, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """Return the ids of a text whose rows are joined already, (tokens,) int64."""
    return torch.tensor(plain_ids(text, tokenizer), dtype=torch.int64)


def ids_of_documents(documents: Iterable[str], tokenizer: PreTrainedTokenizerBase, most: int = C4_TOKENS) -> Tensor:
    """Return the first ids of documents that are not empty, with the ids of two newlines between them.

    Args:
        documents: in order; no more are read than are needed.
        tokenizer: of the model.
        most: ids.
    """
    between, ids = plain_ids(BETWEEN, tokenizer), list[int]()
    for document in documents:
        if not document.strip():
            continue
        ids += between if ids else []
        ids += plain_ids(document, tokenizer)
        if len(ids) >= most:
            break
    return torch.tensor(ids[:most], dtype=torch.int64)


def blocks_of(ids: Tensor, length: int = LENGTH) -> Tensor:
    """Return blocks of ids without overlap, (blocks, length) int64; what is left at the end is dropped.

    Raises:
        EckartError: there is not one.
    """
    count = len(ids) // length
    if not count:
        raise EckartError(f"The text has {len(ids)} tokens; the protocol scores blocks of {length}. Use a longer text.")
    return ids[: count * length].reshape(count, length)


def hash_of_tokens(blocks: Tensor) -> str:
    """Return the SHA-256 of the ids of all blocks, in order, as little-endian 64-bit integers."""
    return hashlib.sha256(blocks.contiguous().numpy().astype("<i8").tobytes()).hexdigest()


def log_perplexity(model: PreTrainedModel, blocks: Tensor) -> float:
    """Return the loss a prediction, in nats: all losses over all predictions."""
    total, predictions = 0.0, 0
    model.eval()
    with torch.no_grad():
        for block in blocks:
            logits = model(input_ids=block[None].to(model.device), use_cache=False).logits[0, :-1]
            losses = functional.cross_entropy(logits.float(), block[1:].to(logits.device), reduction="none")
            total += float(losses.double().sum())
            predictions += len(losses)
    if not math.isfinite(total):
        raise EckartError("The loss is NaN or infinite: the model gives no usable logits on this text.")
    return total / predictions


class ArenaTexts:
    """The two texts of the protocol, by name; stands where :class:`harness.Texts` does.

    Args:
        data: folder with ``wikitext2.test.txt`` and ``c4.eval.jsonl``.
        tokenizer: of the model.
        device: where models are run.
        length: of a block.
        most: tokens of C4.
    """

    def __init__(
        self,
        data: Path,
        tokenizer: PreTrainedTokenizerBase,
        device: torch.device,
        length: int = LENGTH,
        most: int = C4_TOKENS,
    ) -> None:
        c4 = data / "c4.eval.jsonl"
        documents = (row.get("text") or "" for _, row in json_rows(c4.read_text(encoding="utf-8"), c4, "text"))
        found = {
            "arena:wikitext2": ids_of_text(read_text(str(data / "wikitext2.test.txt")), tokenizer),
            "arena:c4": ids_of_documents(documents, tokenizer, most),
        }
        self.tokens = {name: blocks_of(ids, length) for name, ids in found.items()}
        self.device = device

    def log_perplexities(self, model: PreTrainedModel) -> dict[str, float]:
        """Return the loss on each text; ``model`` is left on the device, in its own dtype."""
        model.to(self.device)
        return {name: log_perplexity(model, blocks) for name, blocks in self.tokens.items()}


def facts(
    texts: ArenaTexts,
    model: PreTrainedModel,
    recipe: Recipe | None,
    asked: float,
    kept: float,
    calibration: Calibration,
    tasks: bool,
) -> dict[str, Any]:
    """Return the fields that the protocol wants in a row, beside perplexities.

    Args:
        texts: that it was measured on.
        model: that was measured.
        recipe: by which it was made; None for the dense model.
        asked: share of the projections' parameters.
        kept: share that it has.
        calibration: of the recipe.
        tasks: whether tasks were run.
    """
    tensors = {t.data_ptr(): t.numel() * t.element_size() for t in model.state_dict().values()}
    record = calibration.record
    return {
        "runner": RUNNER,
        "revision": getattr(model.config, "_commit_hash", None),
        "share_asked": asked,
        "share_achieved": kept,
        "weight_bytes": sum(tensors.values()),
        "calibration": None if recipe is None or not recipe.needs_data else record.model_dump(),
        "token_sha256": {name: hash_of_tokens(blocks) for name, blocks in texts.tokens.items()},
        "scored_predictions": {name: blocks.numel() - len(blocks) for name, blocks in texts.tokens.items()},
        "bos": False,
        "dtype": str(model.dtype).removeprefix("torch."),
        "lm_eval": f"{version('lm_eval')} hf" if tasks else None,
        "recovery": _recovery(recipe),
        "masks_counted": True,  # stored bytes are: indices, scales and places of what is left out
        "departures": departures(recipe, asked, kept),
    }


def departures(recipe: Recipe | None, asked: float, kept: float) -> list[str]:
    """Return what a row does that the arena's budget does not allow."""
    found = [] if abs(asked - kept) <= MOST_MISSED else [f"share {kept:.4f} in place of {asked:g}"]
    if recipe is None:
        return found
    few_bits = recipe.precision.scheme is not None or recipe.structure.own_precision or recipe.structure.adds_to_base
    found += ["fewer than 16 bits"] if few_bits else []
    found += ["recovery training"] if _recovery(recipe) != "none" else []
    return found


def _recovery(recipe: Recipe | None) -> str:
    places: Sequence[str] = ("preparation", "refinement", "distillation")
    trained = [] if recipe is None else [getattr(recipe, p).name for p in places if getattr(recipe, p).training]
    return ", ".join(trained) or "none"
