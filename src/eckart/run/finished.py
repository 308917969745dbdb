"""A run that is asked for once more when it is finished: it is not done again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from eckart import processes
from eckart.checkpoint.identity import PROCESSES, SIZE
from eckart.checkpoint.mark import changed_files, read_small
from eckart.checkpoint.packed import STANDARD_NAME
from eckart.checkpoint.records import read_records
from eckart.checkpoint.run_checkpoint import check_same_run
from eckart.compression.result import CompressionResult
from eckart.errors import CheckpointError


class _Finished(BaseModel):
    """What is compared of the ``quantization_config`` of a finished run with a run that is asked for."""

    recipe: dict[str, Any]
    calibration: dict[str, Any] | None
    provenance: dict[str, Any]


class _Config(BaseModel):
    quantization_config: _Finished


def finished_report(output: Path, identity: dict[str, Any], overwrite: bool) -> CompressionResult | None:
    """Return the report of a finished run; None if it is another one than is asked for, and may be replaced."""

    def same() -> bool:
        return _is_finished(output, identity, overwrite)

    return read_records(output) if processes.first(same) else None


def _is_finished(output: Path, identity: dict[str, Any], overwrite: bool) -> bool:
    try:
        read_records(output)
        config = read_small(output / "config.json", _Config)
        found = read_small(output / STANDARD_NAME, _Finished) or (config.quantization_config if config else None)
        if found is None:
            raise CheckpointError(f"{output / 'config.json'} is none that `eckart compress` wrote. Use another output.")
        before = {
            "recipe": found.recipe,
            "calibration": found.calibration,
            **{key: found.provenance.get(key) for key in ("keep", "model", "compute", "versions", PROCESSES, SIZE)},
        }
        check_same_run(before, {PROCESSES: None, SIZE: None} | identity, output)
        if changed := changed_files(output):
            raise CheckpointError(
                f"{output} is finished, but {changed[0]} is gone or was changed since. Move the folder away to make it "
                "again."
            )
    except CheckpointError:
        if overwrite:
            return False
        raise
    return True
