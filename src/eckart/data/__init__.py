"""What models read: sources of text and of items, calibration samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eckart.lazy import importer

if TYPE_CHECKING:
    from eckart.data.calibration import DEFAULT_SAMPLES, Calibration, calibrate
    from eckart.data.draw import tokenize
    from eckart.data.sampling import read_samples
    from eckart.data.text import PYTHON_DOCS, read_text

__all__ = ["DEFAULT_SAMPLES", "PYTHON_DOCS", "Calibration", "calibrate", "read_samples", "read_text", "tokenize"]

__getattr__ = importer(
    __name__,
    {
        "DEFAULT_SAMPLES": "eckart.data.calibration:DEFAULT_SAMPLES",
        "PYTHON_DOCS": "eckart.data.text:PYTHON_DOCS",
        "Calibration": "eckart.data.calibration:Calibration",
        "calibrate": "eckart.data.calibration:calibrate",
        "read_samples": "eckart.data.sampling:read_samples",
        "read_text": "eckart.data.text:read_text",
        "tokenize": "eckart.data.draw:tokenize",
    },
)
