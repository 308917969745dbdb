"""What a run did, as data: one record a linear layer, and the sums over them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from pydantic import BaseModel, ConfigDict, Field

from eckart.layout import BYTES_PER_NUMBER, dense_bytes
from eckart.recipe import Recipe
from eckart.refinement.record import RefinementRecord

REPORT_NAME = "eckart_report.json"


class CalibrationRecord(BaseModel):
    """Where the calibration tokens came from. ``sha256`` is of the token ids as little-endian 64-bit integers."""

    model_config = ConfigDict(frozen=True)

    source: str
    samples: int
    length: int
    tokens: int
    seed: int
    sha256: str


class LayerRecord(BaseModel):
    """One linear layer: its shape, its rank (None: left dense), its stored bytes and its error.

    ``error`` is ``||T - W' Z|| / ||T||`` on the calibration tokens, T the outputs that the objective compares with;
    for an objective without data it is ``||W - W'|| / ||W||``. ``in_order``: whether the layer is pivoted and computes
    its outputs in order, so that no index is stored.
    """

    model_config = ConfigDict(frozen=True)

    path: str
    out_features: int
    in_features: int
    rank: int | None
    bytes: int
    error: float
    in_order: bool = False

    @property
    def dense_bytes(self) -> int:
        """Bytes of the layer's weight in 16-bit numbers."""
        return dense_bytes(self.out_features, self.in_features)


class Timings(BaseModel):
    """Wall-clock seconds of a run, by what they were spent on; ``files`` is reading and writing them."""

    allocation: float = 0.0
    statistics: float = 0.0
    factorisation: float = 0.0
    refinement: float = 0.0
    files: float = 0.0
    total: float = 0.0

    @contextmanager
    def measure(self, phase: str) -> Iterator[None]:
        """Add the time spent inside to ``phase``."""
        start = perf_counter()
        try:
            yield
        finally:
            setattr(self, phase, getattr(self, phase) + perf_counter() - start)


class Report(BaseModel):
    """What :func:`eckart.compress` returns.

    Attributes:
        recipe: what was done.
        requested_keep: what was asked for.
        calibration: None if the recipe looks at no data.
        layers: every target linear, in order of execution.
        refinements: every block that was refined, in order of execution.
        parameters: of the whole model as it was.
        warnings: what the user was told.
        timings: not part of what is saved, so that the same run writes the same bytes.
    """

    recipe: Recipe
    requested_keep: float
    calibration: CalibrationRecord | None
    layers: list[LayerRecord]
    refinements: list[RefinementRecord] = []
    parameters: int
    warnings: list[str] = []
    timings: Timings = Field(default_factory=Timings, exclude=True)

    @property
    def keep(self) -> float:
        """Stored bytes of the target linears over their dense 16-bit bytes."""
        dense = sum(layer.dense_bytes for layer in self.layers)
        return sum(layer.bytes for layer in self.layers) / dense

    @property
    def whole_bytes(self) -> int:
        """Bytes of the whole model as it was, in 16-bit numbers."""
        return BYTES_PER_NUMBER * self.parameters

    @property
    def whole_bytes_after(self) -> int:
        """Stored bytes of the target linears, and of all else in 16-bit numbers."""
        return self.whole_bytes + sum(layer.bytes - layer.dense_bytes for layer in self.layers)

    @property
    def keep_whole_model(self) -> float:
        """Bytes of the whole model after over before."""
        return self.whole_bytes_after / self.whole_bytes

    @property
    def ranks(self) -> dict[str, int]:
        """Rank by module path, of the layers that were factored."""
        return {layer.path: layer.rank for layer in self.layers if layer.rank is not None}
