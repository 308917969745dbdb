"""What the page knows of one run, wherever it is from."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from eckart.compression.result import CompressionResult
from eckart.data.calibration import CalibrationRecord
from eckart.data.text import text_name
from eckart.evaluate import Perplexity
from eckart.sweep.row import SpeedResult

DENSE = "dense"
CONFIDENCE = 1.96  # standard errors on either side, for 95 %


@dataclass(frozen=True)
class Sample:
    """What a model wrote behind a prompt."""

    prompt: str
    text: str


@dataclass
class Run:
    """One model: what was done to it and what was measured. All that is not known is None or empty.

    Attributes:
        name: shown to people, of this run only.
        recipe: label of what was done, or ``dense``.
        model: name of the dense model.
        keep: share of the linear layers' bytes that was asked for.
        kept: the share that is kept.
        bytes: of the whole model as stored, the dense linears counted in 16 bits.
        dense_bytes: of the dense model, in 16 bits.
        calibration: what it was calibrated on.
        texts: perplexity by what it was measured on, see :func:`text_label`.
        caches: perplexities that were read from a key-value cache, each behind what it was measured on.
        speed: tokens a second, beside the dense model's.
        seconds: that compressing took, without what was shared with other runs.
        shared_seconds: that was shared with other runs.
        ranks: by path of each target linear; None for one that is not factored.
        report: all that was recorded, of a compressed folder.
        samples: what it wrote.
        folder: where the compressed model is.
    """

    name: str
    recipe: str
    model: str
    keep: float
    kept: float | None = None
    bytes: int | None = None
    dense_bytes: int | None = None
    calibration: CalibrationRecord | None = None
    texts: dict[str, Perplexity] = field(default_factory=dict)
    caches: list[tuple[str, Perplexity]] = field(default_factory=list)
    speed: SpeedResult | None = None
    seconds: float | None = None
    shared_seconds: float = 0.0
    ranks: dict[str, int | None] = field(default_factory=dict)
    report: CompressionResult | None = None
    samples: list[Sample] = field(default_factory=list)
    folder: Path | None = None

    @property
    def is_dense(self) -> bool:
        """Whether it is the model as it was."""
        return self.recipe == DENSE

    @property
    def tokens(self) -> int | None:
        """Calibration tokens."""
        return self.calibration.tokens if self.calibration else None

    @property
    def mean_layer_error(self) -> float | None:
        """Mean over the target linears of the relative error that was minimised."""
        if self.report is None or not self.report.layers:
            return None
        return sum(layer.error for layer in self.report.layers) / len(self.report.layers)

    @property
    def last_error(self) -> float | None:
        """Relative error of the hidden states behind the last block, on calibration tokens."""
        if self.is_dense:
            return 0.0
        blocks = self.report.blocks if self.report else []
        return blocks[-1].output.relative if blocks and blocks[-1].output else None


def text_label(name: str, measured: Perplexity) -> str:
    """Return what a perplexity was measured on: two numbers can be compared only if this is the same."""
    return f"{text_name(name)}, {measured.windows} × {measured.length} tokens"


def interval(measured: Perplexity) -> tuple[float, float] | None:
    """Return the 95 % interval of a perplexity; None if it is not known, or too wide to be written as a number."""
    if measured.error is None or measured.log_perplexity + CONFIDENCE * measured.error > 700:
        return None
    low, high = (measured.log_perplexity + sign * CONFIDENCE * measured.error for sign in (-1, 1))
    return math.exp(low), math.exp(high)
