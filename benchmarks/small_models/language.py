"""Trains a small model on text to predict its next token."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from eckart.data.draw import tokenize
from small_models.cache import cached
from small_models.texts import text_parts
from small_models.training import train, training_dtype


@dataclass(frozen=True)
class Language:
    """What is trained.

    Attributes:
        name: of the model.
        version: of what its settings do not say: another one is another model.
        make_tokenizer: gives one that learnt from a text, of so many tokens.
        make_model: gives the model with random weights, float32, from its settings and the number of tokens.
        arguments: of its forward pass in training, beside tokens and labels.
    """

    name: str
    version: int
    make_tokenizer: Callable[[str, int], PreTrainedTokenizerFast]
    make_model: Callable[[Any, int], PreTrainedModel]
    arguments: Mapping[str, Tensor] = field(default_factory=dict)


def trained_on_text(kind: Language, settings: Any, source: str | None = None, chosen: Path | None = None) -> Path:
    """Return the folder of the trained model and its tokenizer, bfloat16; trains it where there is none.

    Args:
        kind: what is trained.
        settings: of the model and of its training: ``schedule``, ``length``, ``vocabulary``, ``seed`` and its own.
        source: text to train on, as :func:`eckart.data.text.read_text` names it, or several with ``+`` between them;
            None for what comes with Python.
        chosen: folder of all that is cached; None for the platform's own.
    """
    text = text_parts(source)["train"]
    dtype = training_dtype()
    read = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
    facts = {"version": kind.version, "products": str(dtype), "text": read, **asdict(settings)}

    def make(folder: Path) -> None:
        tokenizer = kind.make_tokenizer(text, settings.vocabulary)
        ids = tokenize(text, tokenizer)
        model = kind.make_model(settings, len(tokenizer))
        # Fused attention in bfloat16 is the slower one on processors, backward ten times so.
        model.set_attn_implementation("eager")

        def batch_at(step: int) -> Mapping[str, Tensor]:
            draw = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
            starts = torch.randint(len(ids) - settings.length, (settings.schedule.batch,), generator=draw)
            batch = ids.unfold(0, settings.length, 1)[starts]
            return {"input_ids": batch, "labels": batch, **kind.arguments}

        train(model, batch_at, settings.schedule, folder, dtype)
        model.to(torch.bfloat16).save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    return cached(kind.name, json.loads(json.dumps(facts)), make, chosen)
