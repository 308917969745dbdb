"""Measurements in a folder, so that another run need not measure again: safetensors files, and JSON for the rest.

Each linear has a file, which is read when its tensors are looked at: measurements may be larger than memory.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from eckart.methods.allocation import LayerStatistics
from eckart.methods.sensitivity.measurements import Measurements

T = TypeVar("T")

FACTS, BLOCKS = "profile.json", "blocks.safetensors"
KEYS = {  # a field of measurements, and what its tensors are called in a file
    "metrics": ("metric",),
    "means": ("mean",),
    "solutions": ("basis", "dual"),
    "whitenings": ("root", "inverse"),
}
OF_INPUTS = ("means", "whitenings")  # the same for all linears of a group


def save_measurements(measurements: Measurements, folder: Path) -> None:
    """Write measurements; the folder is not there before all of it is.

    Args:
        measurements: what was measured.
        folder: to make, in the place of what is there.
    """
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    seen: set[int] = set()
    for number, linear in enumerate(measurements.linears):
        tensors = {name: value for name, value in _values(linear) if isinstance(value, Tensor)}
        for name, keys in KEYS.items():
            if linear.path in getattr(measurements, name) and not (name in OF_INPUTS and linear.group in seen):
                found = getattr(measurements, name)[linear.path]
                tensors |= zip(keys, (found,) if isinstance(found, Tensor) else found, strict=True)
        seen.add(linear.group)
        # Copies, since a tensor may stand for itself and for its inverse.
        save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, _file(unfinished, number))
    save_file(dict(measurements.block_metrics), unfinished / BLOCKS)
    facts = {
        "linears": [{n: v for n, v in _values(linear) if not isinstance(v, Tensor)} for linear in measurements.linears],
        "fields": [name for name in KEYS if getattr(measurements, name)],
    }
    (unfinished / FACTS).write_text(json.dumps(facts), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)


def load_measurements(folder: Path) -> Measurements:
    """Return the measurements that :func:`save_measurements` wrote to ``folder``.

    Raises:
        OSError: it is not there.
    """
    facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    linears = tuple(_linear(fact, _file(folder, number)) for number, fact in enumerate(facts["linears"]))
    files = {linear.path: _file(folder, number) for number, linear in enumerate(linears)}
    first = {linear.group: files[linear.path] for linear in reversed(linears)}
    inputs = {linear.path: first[linear.group] for linear in linears}
    found: dict[str, Any] = {
        name: _Stored(inputs if name in OF_INPUTS else files, KEYS[name]) for name in facts["fields"]
    }
    return Measurements(linears, block_metrics=load_file(folder / BLOCKS), **found)


class _Stored(Mapping[str, Any]):
    """Tensors, or pairs of them, by the path of their linear; those of linears that have none are left out."""

    def __init__(self, files: Mapping[str, Path], keys: Sequence[str]) -> None:
        self.keys_in_file = keys
        self.files = {
            path: file for path, file in files.items() if _with(file, lambda held: keys[0] in set(held.keys()))
        }

    def __getitem__(self, path: str) -> Any:
        found = _with(self.files[path], lambda held: tuple(held.get_tensor(key) for key in self.keys_in_file))
        return found if len(found) > 1 else found[0]

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)


def _with(file: Path, read: Callable[[Any], T]) -> T:
    with safe_open(file, "pt") as held:
        return read(held)


def _values(linear: LayerStatistics) -> list[tuple[str, Any]]:
    return [(field.name, getattr(linear, field.name)) for field in fields(linear)]


def _linear(facts: dict[str, Any], file: Path) -> LayerStatistics:
    names = {field.name for field in fields(LayerStatistics)}
    held = _with(file, lambda held: {name: held.get_tensor(name) for name in names & set(held.keys())})
    return LayerStatistics(**{**facts, **held, "shape": tuple(facts["shape"])})


def _file(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.safetensors"
