"""What a run did, as data: one record a linear layer, and the sums over them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from eckart.compression.model_check import ModelCheck
from eckart.compression.records import BlockRecord, Memory
from eckart.files.field_types import Count, Label, Size, Whole
from eckart.methods.distillation.record import DistillationRecord
from eckart.methods.layout import BYTES_PER_NUMBER, dense_bytes
from eckart.methods.recipe import Recipe
from eckart.methods.refinement.record import RefinementRecord

REPORT_NAME = "eckart/report.json"


class CalibrationRecord(BaseModel):
    """Where the calibration tokens came from. ``sha256`` is of the token ids as little-endian 64-bit integers."""

    model_config = ConfigDict(frozen=True)

    source: str
    samples: Count
    length: Count
    tokens: Count
    seed: Whole
    sha256: str


class LayerRecord(BaseModel):
    """One linear layer: its shape, its rank (None: left dense), its stored bytes and its error.

    ``error`` is ``||T - W' Z|| / ||T||`` on the calibration tokens, T the outputs that the objective compares with;
    for an objective without data it is ``||W - W'|| / ||W||``. ``unresolved`` is the share of ``||T||^2``, at most,
    that no rank could explain, since its inputs cannot be told from rounding. ``in_order``: whether the layer is
    pivoted and computes its outputs in order, so that no index is stored.
    """

    model_config = ConfigDict(frozen=True)

    path: Label
    out_features: Size
    in_features: Size
    rank: Count | None
    bytes: Count
    error: float
    unresolved: float = 0.0
    in_order: bool = False

    @property
    def dense_bytes(self) -> int:
        """Bytes of the layer's weight in 16-bit numbers."""
        return dense_bytes(self.out_features, self.in_features)


class Timings(BaseModel):
    """Wall-clock seconds of a run, by what they were spent on.

    ``files`` is reading and writing them, ``records`` is what :class:`eckart.compression.records.BlockRecord` needs.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    allocation: float = 0.0
    statistics: float = 0.0
    factorisation: float = 0.0
    refinement: float = 0.0
    distillation: float = 0.0
    files: float = 0.0
    records: float = 0.0
    total: float = 0.0

    @contextmanager
    def measure(self, phase: str) -> Iterator[None]:
        """Add the time spent inside to ``phase``."""
        start = perf_counter()
        try:
            yield
        finally:
            setattr(self, phase, getattr(self, phase) + perf_counter() - start)


class CompressionResult(BaseModel):
    """What :func:`eckart.compress` returns.

    Attributes:
        version: of this form.
        recipe: what was done.
        requested_keep: what was asked for.
        calibration: None if the recipe looks at no data.
        layers: every target linear, in order of execution.
        refinements: every block that was refined, in order of execution.
        distillation: what it did; None if there was none. Errors of layers and blocks are those before it.
        parameters: of the whole model as it was.
        check: what was known of it before anything was measured; None in reports of the first versions.
        blocks: errors by depth; empty if the recipe looks at no data.
        warnings: what the user was told.
        spectra: singular values of the layers that were factored, by path, as
            :func:`eckart.compression.records.thin_spectrum` gives them. Saved in a file of their own, like what
            follows.
        timings: what this run took, without the last files.
        memory: what it took at most; None until it is over.
        resumed_behind: blocks that an earlier run had finished, whose times are not among the timings.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    version: Literal[1] = 1
    recipe: Recipe
    requested_keep: float = Field(gt=0, le=1)
    calibration: CalibrationRecord | None
    layers: list[LayerRecord]
    refinements: list[RefinementRecord] = []
    distillation: DistillationRecord | None = None
    parameters: Size
    check: ModelCheck | None = None
    blocks: list[BlockRecord] = []
    warnings: list[str] = []
    # What differs between two runs of the same is kept apart, so that the same run writes the same bytes.
    spectra: dict[str, Tensor] = Field(default_factory=dict, exclude=True)
    timings: Timings = Field(default_factory=Timings, exclude=True)
    memory: Memory | None = Field(None, exclude=True)
    resumed_behind: Count = Field(0, exclude=True)

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
