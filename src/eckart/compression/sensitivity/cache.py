"""Keeps profiles for later runs: a folder for each, and beside it what it is of."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eckart.compression.sensitivity.stored import load_profile, save_profile
from eckart.methods.allocation import Needs
from eckart.methods.sensitivity.measurements import Measurements
from eckart.methods.sensitivity.request import Request


@dataclass(frozen=True)
class MeasurementsCache:
    """Profiles that were measured before.

    Attributes:
        folder: that holds them.
        identity: of all that numbers depend on beside the request, such as the model and the calibration tokens.
    """

    folder: Path
    identity: str

    def find(self, request: Request) -> Measurements | None:
        """Return a profile with all that is asked for, or with more; None if there is none."""
        asked = self._facts(request)
        for file in sorted(self.folder.glob("*.json")):
            if _covers(json.loads(file.read_text(encoding="utf-8")), asked):
                return load_profile(file.with_suffix(""))
        return None

    def save(self, request: Request, measurements: Measurements) -> Measurements:
        """Write a profile that was measured, and return it as it is read from there."""
        text = json.dumps(self._facts(request), sort_keys=True)
        path = self.folder / hashlib.sha256(text.encode()).hexdigest()[:16]
        save_profile(measurements, path)
        path.with_suffix(".json").write_text(text, encoding="utf-8")  # last: what it names is there
        return load_profile(path)

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
