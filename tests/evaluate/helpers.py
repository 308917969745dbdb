"""A small task of three choices, written as lm-evaluation-harness reads it, and models that can be asked."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import yaml
from transformers import PreTrainedTokenizerFast

DOCUMENTS = 12


def documents(seed: int = 0) -> list[dict[str, Any]]:
    words = ["red", "a blue one", "green or so", "7", "yellowish", "no colour at all"]
    chance = random.Random(seed)
    return [
        {"question": f"What is number {i}?", "choices": chance.sample(words, 3), "answer": chance.randrange(3)}
        for i in range(DOCUMENTS)
    ]


def write_task(folder: Path, name: str = "colours", *, seed: int = 0, **changes: Any) -> Path:
    """Write a task definition with its documents into ``folder`` and return the definition's path."""
    folder.mkdir(exist_ok=True)
    rows = [json.dumps(document) for document in documents(seed)]
    (folder / f"{name}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    definition: dict[str, Any] = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {
            "data_files": {"test": str(folder / f"{name}.jsonl")},
            "cache_dir": str(folder / ".cache"),
        },
        "output_type": "multiple_choice",
        "test_split": "test",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "answer",
        "metric_list": [{"metric": metric, "aggregation": "mean"} for metric in ("acc", "acc_norm")],
        "metadata": {"version": 3.0},
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**definition, **changes}), encoding="utf-8")
    return path


def write_group(folder: Path, name: str, members: list[str]) -> None:
    group = {
        "group": name,
        "task": members,
        "aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}],
        "metadata": {"version": 2.0},
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(group), encoding="utf-8")


def with_an_end(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Give the byte tokenizer an end of sequence, which the harness needs: its first token, a byte of no text."""
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(0)
    return tokenizer
