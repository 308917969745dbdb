"""Where a run keeps what it needs between blocks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from eckart.compression.estimate import Estimate
from eckart.run.scratch import Scratch

FITS = Estimate(
    host_bytes=1,
    device_bytes=None,
    allocation_seconds=0.0,
    block_seconds=0.0,
    seconds=0.0,
    distillation_seconds=0.0,
    in_memory=True,
    recompute=False,
)
SPACES = ("streams", "student", "measurements")


def written(scratch: Scratch) -> list[Path | None]:
    """Write a tensor into each space, and return where it is."""
    found = []
    for name in SPACES:
        cache = getattr(scratch, name).cache("x", torch.float32)
        cache.append(torch.ones(3))
        assert torch.equal(cache[0], torch.ones(3))
        found.append(cache.path)
    return found


def test_what_fits_is_in_memory(tmp_path: Path) -> None:
    scratch = Scratch.at(FITS, tmp_path, tmp_path, tmp_path)
    assert written(scratch) == [None, None, None]
    scratch.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("given", range(4))
def test_what_does_not_fit_is_in_files_of_which_only_temporary_ones_go(given: int, tmp_path: Path) -> None:
    folders: dict[str, Path] = {}
    for name in SPACES[:given]:
        folders[name] = tmp_path / name
        folders[name].mkdir()
    scratch = Scratch.at(replace(FITS, in_memory=False), **folders)
    paths = dict(zip(SPACES, written(scratch), strict=True))
    assert len(set(paths.values())) == 3  # no space writes over what another one holds
    scratch.close()
    for name, path in paths.items():
        assert path is not None
        assert path.exists() == (name in folders)
        assert (path.parent == folders.get(name)) == (name in folders)
