"""Writes a compressed model as a Hugging Face folder: all of it or nothing."""

from __future__ import annotations

import errno
import json
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from eckart.checkpoint.card import model_card
from eckart.checkpoint.quantizer import EckartConfig, attach
from eckart.errors import CheckpointError
from eckart.report import REPORT_NAME, Report

INDEX_NAME = "eckart.safetensors.index.json"
MAX_SHARD_SIZE = "5GB"


def save(
    model: PreTrainedModel,
    report: Report,
    folder: str | Path,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    overwrite: bool = False,
    max_shard_size: int | str = MAX_SHARD_SIZE,
) -> None:
    """Write a model that :func:`eckart.compress` compressed.

    Args:
        model: as compressed.
        report: what :func:`eckart.compress` returned for it.
        folder: to write; appears only when it is complete.
        tokenizer: is written beside the model.
        overwrite: replace ``folder`` if it exists.
        max_shard_size: of one weight file.

    Raises:
        CheckpointError: ``folder`` exists, or the disk is full.
    """
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    with new_folder(folder, overwrite=overwrite, needed=size) as partial:
        config = model.config.quantization_config
        config.weights = INDEX_NAME
        try:
            model.save_pretrained(partial, max_shard_size=max_shard_size)
        finally:
            config.weights = None
        _rename_shards(partial)
        if tokenizer is not None:
            tokenizer.save_pretrained(partial)
        (partial / REPORT_NAME).write_text(report.model_dump_json(indent=1) + "\n", encoding="utf-8")
        (partial / "README.md").write_text(model_card(model, report), encoding="utf-8")


def describe(model: PreTrainedModel, report: Report, source: str) -> None:
    """Write into the model's config what was done to it.

    Args:
        model: as compressed.
        report: of the run.
        source: name of the original model.
    """
    provenance: dict[str, Any] = {
        "source": source,
        "revision": getattr(model.config, "_commit_hash", None),
        "keep": report.requested_keep,
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in ("eckart", "torch", "transformers")},
        },
    }
    calibration = report.calibration.model_dump() if report.calibration else None
    config = EckartConfig(
        ranks=report.ranks, recipe=report.recipe.model_dump(), calibration=calibration, provenance=provenance
    )
    attach(model, config)


def check_output(folder: str | Path, *, overwrite: bool, needed: int = 0) -> None:
    """Raise if ``folder`` cannot be written: it exists, or ``needed`` bytes do not fit on its disk."""
    folder = Path(folder)
    if folder.exists() and not overwrite:
        raise CheckpointError(f"The output folder {folder} exists. Use another name, or --overwrite to replace it.")
    if folder.is_file():
        raise CheckpointError(f"The output {folder} is a file; expected the name of a folder.")
    parent = next(p for p in folder.absolute().parents if p.exists())
    if not os.access(parent, os.W_OK):
        raise CheckpointError(f"The output folder {folder} cannot be made: {parent} is not writable.")
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise CheckpointError(
            f"No space for {folder}: {needed / 1e6:.0f} MB are needed and {free / 1e6:.0f} MB are free."
        )


@contextmanager
def new_folder(folder: str | Path, *, overwrite: bool, needed: int = 0) -> Iterator[Path]:
    """Give a partial folder to write into; it gets its name when the body is done, and vanishes if the body fails."""
    folder = Path(folder)
    check_output(folder, overwrite=overwrite, needed=needed)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    partial.mkdir()
    try:
        yield partial
        if folder.exists():
            replaced = folder.with_name(f".{folder.name}.replaced-{os.getpid()}")
            folder.rename(replaced)
            partial.rename(folder)
            shutil.rmtree(replaced)
        else:
            partial.rename(folder)
    except (OSError, SafetensorError) as error:
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
        reason = "the disk is full" if full else str(error)
        raise CheckpointError(f"{folder} could not be written: {reason}. Nothing was left behind.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _rename_shards(folder: Path) -> None:
    """Give the weight files names that only this library finds, and an index in any case."""
    shards = sorted(folder.glob("model*.safetensors"))
    standard_index = folder / "model.safetensors.index.json"
    names = {
        shard.name: f"eckart-{number:05d}-of-{len(shards):05d}.safetensors"
        for number, shard in enumerate(shards, start=1)
    }
    if standard_index.exists():
        index = json.loads(standard_index.read_text(encoding="utf-8"))
        index["weight_map"] = {key: names[name] for key, name in index["weight_map"].items()}
        standard_index.unlink()
    else:
        index = _index_of_one_file(shards[0], names[shards[0].name])
    for old, new in names.items():
        (folder / old).rename(folder / new)
        # Some versions of safetensors write files that only their owner can read.
        (folder / new).chmod((folder / "config.json").stat().st_mode)
    (folder / INDEX_NAME).write_text(json.dumps(index, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _index_of_one_file(path: Path, name: str) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as shard:
        keys = list(shard.keys())
    return {"metadata": {"total_size": path.stat().st_size}, "weight_map": dict.fromkeys(keys, name)}
