"""One compression in a process of its own: what it took, and what was expected. Not for use by hand."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import eckart
from eckart.device import host_memory, peak_host_memory


class Measured(BaseModel):
    """Of a run.

    Attributes:
        loaded: bytes of the process before anything was read.
        peak: most bytes of the process.
        expected: the same, as said before the first block.
        device: most bytes on the accelerator, if there is one.
        in_memory: whether hidden states were not in files.
        expected_seconds: of all of it.
        parameters: of the model.
        seconds: by kind of work, and in total.
        source: bytes of the model's files.
        written: bytes that were given to files, hidden states too; None where the system does not count them.
    """

    loaded: int
    peak: int
    expected: int
    device: int | None
    in_memory: bool
    expected_seconds: float
    parameters: int
    seconds: dict[str, float]
    source: int
    written: int | None


def measured_run(
    source: Path,
    output: Path,
    recipe: str,
    keep: float,
    *,
    samples: int,
    length: int,
    memory: int | None = None,
    device: str = "auto",
    overrides: Sequence[str] = (),
    before: str = "",
) -> Measured:
    """Compress a model on disk in another process.

    Args:
        source: the dense model.
        output: folder to make.
        recipe: its name.
        keep: bytes to keep.
        samples: of calibration.
        length: tokens in each.
        memory: bytes that it is told that it may take; None for what is free.
        device: where blocks are run.
        overrides: changes to the recipe.
        before: what its shell does first.
    """
    options = {"samples": samples, "length": length, "device": device, "overrides": list(overrides)}
    given = json.dumps([str(source), str(output), recipe, keep, memory, options])
    command = ["sh", "-c", f'{before}exec "$@"', "sh", sys.executable, __file__, given]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Measured.model_validate_json(result.stdout.splitlines()[-1])


class _Listener(eckart.Callback):
    def on_start(self, plan: Any, cost: Any, finished: int) -> None:
        self.cost = cost


def _main() -> None:
    warnings.simplefilter("ignore")
    source, output, recipe, keep, memory, options = json.loads(sys.argv[1])
    listener, loaded = _Listener(), host_memory()
    report = eckart.compress_checkpoint(
        source, output, recipe, keep, "python-docs", memory=memory, callback=listener, **options
    )
    counted = Path("/proc/self/io")
    files = dict(line.split(": ") for line in counted.read_text().splitlines()) if counted.exists() else {}
    found = Measured(
        loaded=loaded,
        peak=peak_host_memory(),
        expected=listener.cost.host_bytes,
        device=None if report.costs.memory is None else report.costs.memory.device,
        in_memory=listener.cost.in_memory,
        expected_seconds=listener.cost.seconds,
        parameters=report.parameters,
        seconds=report.costs.timings.model_dump(),
        source=sum(path.stat().st_size for path in Path(source).iterdir()),
        written=files.get("write_bytes"),
    )
    print(found.model_dump_json())


if __name__ == "__main__":
    _main()
