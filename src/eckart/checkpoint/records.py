"""The folder ``eckart/`` of a compressed model: what was done to it, for people and for ``eckart report``.

eckart/report.json           recipe, layers, preparations, refinements, errors by depth
eckart/spectra.safetensors   singular values of each layer that was factored
eckart/nested.safetensors    what each component is worth, if the folder serves several sizes
eckart/timings.json          seconds and memory: the one file in which two runs of the same differ
"""

from __future__ import annotations

import reprlib
from pathlib import Path
from typing import TypeVar

import torch
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from eckart.checkpoint.files import write_shard
from eckart.checkpoint.nested import has_nested, read_nested, write_nested
from eckart.compression.costs import Costs
from eckart.compression.result import REPORT_NAME, CompressionResult
from eckart.errors import CheckpointError, first_problem
from eckart.files.names import file_inside, read_json

SPECTRA_NAME = "eckart/spectra.safetensors"
TIMINGS_NAME = "eckart/timings.json"
VERSION = 1

Model = TypeVar("Model", bound=BaseModel)


def write_records(folder: Path, report: CompressionResult) -> None:
    """Write the records of a run into the folder of its model."""
    (folder / REPORT_NAME).parent.mkdir(exist_ok=True)
    (folder / REPORT_NAME).write_text(report.model_dump_json(indent=1) + "\n", encoding="utf-8")
    write_shard(folder / SPECTRA_NAME, dict(sorted(report.spectra.items())))
    if report.nested is not None:
        write_nested(folder, report.nested)
    (folder / TIMINGS_NAME).write_text(report.costs.model_dump_json(indent=1) + "\n", encoding="utf-8")


def read_report(folder: Path) -> CompressionResult:
    """Return what was done to the model in ``folder``, without the spectra and what it took.

    Raises:
        CheckpointError: it was not compressed by this library, or by another version of it, or the file is damaged.
    """
    path = folder / REPORT_NAME
    if not folder.exists():
        raise CheckpointError(f"There is no folder {folder}; expected one that `eckart compress` wrote.")
    if not path.exists():
        older = folder / "eckart_report.json"
        hint = f" It has an {older.name}, of an earlier version: compress again." if older.is_file() else ""
        raise CheckpointError(f"{folder} holds no {REPORT_NAME}; expected a folder that `eckart compress` wrote.{hint}")
    report = _parse(folder, REPORT_NAME, CompressionResult)
    if not report.layers:
        raise CheckpointError(f"{folder} is a compressed folder without layers; there is nothing to show.")
    return report


def read_records(folder: Path) -> CompressionResult:
    """Return all that was recorded of the model in ``folder``. Spectra and costs may be absent.

    Raises:
        CheckpointError: as for :func:`read_report`.
    """
    report = read_report(folder)
    if (folder / SPECTRA_NAME).exists():
        report.spectra = _read_spectra(folder)
    if has_nested(folder):
        report.nested = read_nested(folder)
    if (folder / TIMINGS_NAME).exists():
        report.costs = _parse(folder, TIMINGS_NAME, Costs)
    return report


def _read_spectra(folder: Path) -> dict[str, Tensor]:
    path = file_inside(folder, SPECTRA_NAME)
    try:
        spectra = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}. Compress again.") from error
    for name, spectrum in spectra.items():
        if not (
            spectrum.is_floating_point()
            and spectrum.ndim == 2
            and spectrum.shape[0] == 2
            and spectrum.shape[1] >= 1
            and torch.isfinite(spectrum.float()).all()
        ):
            raise CheckpointError(
                f"{path} holds {tuple(spectrum.shape)} numbers of {spectrum.dtype} for {name}; expected two rows of "
                "finite ones, components and singular values. Compress again."
            )
    return spectra


def _parse(folder: Path, name: str, model: type[Model]) -> Model:
    path, data = folder / name, read_json(folder, name)
    found = data.get("version", VERSION) if isinstance(data, dict) else VERSION
    if found != VERSION:
        raise CheckpointError(
            f"{path} is of version {reprlib.repr(found)}, and this Eckart reads version {VERSION}. Use the "
            "Eckart that wrote it, or compress again."
        )
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise CheckpointError(f"{path} cannot be read ({first_problem(error)}).") from error
