"""Keeps measurements for later runs: a folder for each, and beside it what it is of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measurement_files import load_measurements, save_measurements

from eckart.blocks.blockwise_model import BlockwiseModel
from eckart.checkpoint.identity import digest_of, versions
from eckart.methods.allocation import Needs
from eckart.methods.sensitivity.measure import Progress, measure_all
from eckart.methods.sensitivity.measurements import Measurements
from eckart.methods.sensitivity.request import Request
from eckart.sweep.statistics import Measure


def remembering(folder: Path, measure: Measure = measure_all) -> Measure:
    """Return what measures only what is not in a folder yet, and adds it there.

    Args:
        folder: of what earlier runs have measured; it can be as large as a few models.
        measure: what measures the rest.
    """

    def known_or_measured(
        original: BlockwiseModel, requests: Sequence[Request], progress: Progress, *, first: int = 0
    ) -> list[Measurements]:
        cache = MeasurementsCache(folder, identity_of(original))
        # Moments of inputs are not in the files: what is asked for them is measured each time.
        found = {request: None if request.keep_moments else cache.find(request) for request in requests}
        missing = [request for request in requests if found[request] is None]
        measured = measure(original, missing, progress, first=first) if missing else []
        saved = {
            request: new if request.keep_moments else cache.save(request, new)
            for request, new in zip(missing, measured, strict=True)
        }
        return [found[request] or saved[request] for request in requests]

    return known_or_measured


def identity_of(original: BlockwiseModel) -> str:
    """Return what numbers depend on beside the request: the model, the tokens, the device and the versions."""
    calibration = original.calibration
    return json.dumps(
        {
            "model": digest_of(original.model),
            "calibration": None if calibration is None else calibration.record.sha256,
            "device": original.device.type,
            "versions": versions(None),
        }
    )


@dataclass(frozen=True)
class MeasurementsCache:
    """Measurements that were made before.

    Attributes:
        folder: that holds them.
        identity: of all that numbers depend on beside the request, such as the model and the calibration tokens.
    """

    folder: Path
    identity: str

    def find(self, request: Request) -> Measurements | None:
        """Return measurements with all that is asked for, or with more; None if there is none."""
        asked = self._facts(request)
        for file in sorted(self.folder.glob("*.json")):
            if _covers(json.loads(file.read_text(encoding="utf-8")), asked):
                return load_measurements(file.with_suffix(""))
        return None

    def save(self, request: Request, measurements: Measurements) -> Measurements:
        """Write measurements, and return them as they are read from there."""
        text = json.dumps(self._facts(request), sort_keys=True)
        path = self.folder / hashlib.sha256(text.encode()).hexdigest()[:16]
        save_measurements(measurements, path)
        path.with_suffix(".json").write_text(text, encoding="utf-8")  # last: what it names is there
        return load_measurements(path)

    def _facts(self, request: Request) -> dict[str, Any]:
        return {
            "identity": self.identity,
            "objective": request.objective.model_dump(mode="json"),
            "structure": request.structure.model_dump(mode="json"),
            "metric": None if request.metric is None else request.metric.model_dump(mode="json"),
            "gradient_samples": request.gradient_samples if request.next_labels is not None else 0,
            "evidence": request.needs.value,
            "keep_bases": request.keep_bases,
            "keep_inputs": request.keep_inputs,
        }


def _covers(known: dict[str, Any], asked: dict[str, Any]) -> bool:
    """Return whether what is known of one request answers another, as :meth:`Request.merged` has it."""
    return (
        all(known[name] == asked[name] for name in ("identity", "objective", "structure"))
        and asked["metric"] in (None, known["metric"])
        and asked["gradient_samples"] in (0, known["gradient_samples"])
        and Needs(asked["evidence"]) in Needs(known["evidence"])
        and all(known[name] >= asked[name] for name in ("keep_bases", "keep_inputs"))
    )
