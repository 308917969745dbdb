"""What the benchmarks of allocations and of layouts share: rows in a file, texts, a table."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import eckart
from eckart.data.draw import tokenize
from eckart.data.text import read_text
from eckart.device import compute_dtype

CPU = torch.device("cpu")


class Rows:
    """Measurements, those of earlier runs included, and the file that they are appended to.

    Args:
        path: of JSON lines; None to keep none.
        key: the fields by which a row is told from others.
    """

    def __init__(self, path: Path | None, key: Sequence[str]) -> None:
        self.path, self.key = path, key
        lines = path.read_text(encoding="utf-8").splitlines() if path is not None and path.exists() else []
        self.rows: list[dict[str, Any]] = [json.loads(line) for line in lines]

    def __contains__(self, key: tuple[object, ...]) -> bool:
        return any(tuple(row[name] for name in self.key) == key for row in self.rows)

    def add(self, row: dict[str, Any]) -> None:
        """Add a row, print it and write it."""
        self.rows.append(row)
        line = json.dumps(row)
        print(line, flush=True)
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")


class Texts:
    """Texts to measure on; losses are in nats a token."""

    def __init__(
        self,
        names: Sequence[str],
        tokenizer: PreTrainedTokenizerBase,
        windows: int,
        length: int,
        device: torch.device = CPU,
    ) -> None:
        self.tokens = {Path(name).name: tokenize(read_text(name), tokenizer) for name in names}
        self.windows, self.length, self.device = windows, length, device

    def log_perplexities(self, model: PreTrainedModel) -> dict[str, float]:
        """Return the loss on each text; ``model`` is left on the device, in the dtype that is fastest there."""
        model.to(self.device, compute_dtype(model.dtype, self.device))
        return {
            name: eckart.perplexity(model, ids, length=self.length, windows=self.windows).log_perplexity
            for name, ids in self.tokens.items()
        }


def table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], baseline: Mapping[str, float]) -> str:
    """Return rows as Markdown: their fields, then perplexity and excess log-perplexity for each text.

    Args:
        rows: to show; what is None is not known.
        columns: a format for each field that is shown, such as ``{"keep": "g"}``.
        baseline: log-perplexity of the dense model, by text.
    """
    lines = [f"| {' | '.join([*columns, *(f'{name} | excess' for name in baseline)])} |"]
    lines.append("|" + "---|" * (len(columns) + 2 * len(baseline)))
    for row in rows:
        losses = row["log_perplexity"]
        cells = ["" if row[name] is None else format(row[name], form) for name, form in columns.items()]
        cells += [f"{math.exp(losses[name]):.1f} | {losses[name] - dense:.3f}" for name, dense in baseline.items()]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
