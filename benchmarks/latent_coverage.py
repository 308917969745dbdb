"""Measures which classes of transformers keep latents in their cache, on tiny random models of all that write text.

    python benchmarks/latent_coverage.py --output latent_coverage.jsonl

Each model is factored, and decodes a text in pieces from a cache of latents and from one of keys and values; its
logits must be alike. What is in OUTPUT is not run again.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import transformers
import typer
from harness import Rows
from tiny_models.classes import Entry, entries
from torch import Tensor
from transformers.cache_utils import Cache

import eckart
from eckart.cache import latent_cache
from eckart.errors import EckartError
from tiny_models import TinyModelError, build

KEEP = 0.35
PIECES = (9, 1, 1, 4, 1)  # tokens of each pass
TOLERANCE = 1e-4  # of the largest logit


def main(
    output: Annotated[Path, typer.Option(help="Append the JSON lines to this file; what is in it is not repeated.")],
    only: Annotated[list[str], typer.Option(help="A config's type; may be repeated.")] = [],  # noqa: B006
) -> None:
    """Run the classes that are not in OUTPUT yet, and print how many ended how."""
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    rows = Rows(output, ("model_type",))
    for entry in entries():
        if entry.kind != "causal" or (only and entry.model_type not in only) or (entry.model_type,) in rows:
            continue
        rows.add({"model_type": entry.model_type, "model_class": entry.model_class, **outcome_of(entry)})
    found = Counter(row["outcome"] for row in rows.rows)
    print(", ".join(f"{count} {outcome}" for outcome, count in found.most_common()))


def outcome_of(entry: Entry) -> dict[str, Any]:
    """Return what becomes of a class: latents, left alone, no cache, differs, not compressed or not built."""
    try:
        model = build(entry)
        eckart.compress(model, "svd", KEEP, allow_partial=True)
    except TinyModelError as error:
        return {"outcome": "not built", "detail": str(error)[:200]}
    except EckartError as error:
        return {"outcome": "not compressed", "detail": str(error)[:200]}
    dense = copy.deepcopy(model)
    try:
        cache = latent_cache(model)
    except EckartError as error:
        return {"outcome": "no cache", "detail": str(error)[:200]}
    facts: dict[str, Any] = {
        "attentions": len(cache.size.layers),
        "with_latents": len(cache.attentions),
        "share": cache.size.share,
        "reasons": cache.size.reasons,
    }
    try:
        expected, _ = in_pieces(dense)
        found, used = in_pieces(model)
    except Exception as error:
        return {"outcome": "crashed", "detail": f"{type(error).__name__}: {error}"[:300], **facts}
    held = sum(type(layer).__name__.startswith("Latent") for layer in getattr(used, "layers", ()))
    difference = float((found - expected).abs().max() / expected.abs().max())
    outcome = "latents" if held else "left alone"
    if difference > TOLERANCE or held != len(cache.attentions):
        outcome = "differs"
    return {"outcome": outcome, "difference": difference, "held": held, **facts}


@torch.no_grad()
def in_pieces(model: Any) -> tuple[Tensor, Cache | None]:
    """Return the logits of a text that is handed to a model piece by piece, and the cache in the end."""
    size = model.get_input_embeddings().weight.shape[0]
    ids = torch.randint(size, (2, sum(PIECES)), generator=torch.Generator().manual_seed(1))
    logits, cache = [], None
    for piece in torch.split(ids, list(PIECES), dim=1):
        outputs = model(input_ids=piece, use_cache=True, **({} if cache is None else {"cache": cache}))
        cache = outputs.get("cache", outputs.get("past_key_values"))
        logits.append(outputs.logits)
    return torch.cat(logits, dim=1), cache


if __name__ == "__main__":
    typer.run(main)
