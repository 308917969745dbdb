"""What was done to a model, as data: records of its layers and blocks, and the sums over them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from eckart.compression.costs import Costs, Timings
from eckart.compression.embedding import EmbeddingRecord
from eckart.compression.model_check import ModelCheck
from eckart.compression.records import Records
from eckart.data.calibration import CalibrationRecord
from eckart.files.field_types import Size
from eckart.maths.nested import NestedOrder
from eckart.methods.layout import BYTES_PER_NUMBER
from eckart.methods.recipe import Recipe

REPORT_NAME = "eckart/report.json"


class CompressionResult(Records):
    """What :func:`eckart.compress` returns.

    Attributes:
        version: of this form.
        recipe: what was done.
        requested_keep: what was asked for.
        calibration: None if the recipe looks at no data.
        parameters: of the whole model as it was.
        check: what was known of it before anything was measured; None in reports of the first versions.
        warnings: what the user was told.
        embedding: the tables of the vocabulary that were rounded; None if they are in 16 bits.
        nested: the order of all components, if the folder is to serve several sizes. Saved in a file of its own.
        costs: what this run took. Saved in a file of its own, so that the same run writes the same bytes.
    """

    version: Literal[1] = 1
    recipe: Recipe
    requested_keep: float = Field(gt=0, le=1)
    calibration: CalibrationRecord | None
    parameters: Size
    check: ModelCheck | None = None
    warnings: list[str] = Field(default_factory=list)
    embedding: EmbeddingRecord | None = None
    nested: NestedOrder | None = Field(None, exclude=True)
    costs: Costs = Field(default_factory=lambda: Costs(timings=Timings(), memory=None), exclude=True)

    @model_serializer(mode="wrap")
    def _without_what_is_not_there(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # As before there was such a record: those of runs without it stay the same to the byte.
        found = {k: v for k, v in write(self).items() if v is not None or k != "embedding"}
        return {k: v for k, v in found.items() if v or k != "preparations"}

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
        """Stored bytes of the target linears and of rounded tables, and of all else in 16-bit numbers."""
        tables = 0 if self.embedding is None else self.embedding.bytes - self.embedding.dense_bytes
        return self.whole_bytes + tables + sum(layer.bytes - layer.dense_bytes for layer in self.layers)

    @property
    def keep_whole_model(self) -> float:
        """Bytes of the whole model after over before."""
        return self.whole_bytes_after / self.whole_bytes

    @property
    def largest_excess(self) -> float | None:
        """How much more a layer that was solved from a sketch lost than an exact solution, at most; None if unknown."""
        known = [layer.sketch.excess for layer in self.layers if layer.sketch is not None]
        return max((excess for excess in known if excess is not None), default=None)

    @property
    def ranks(self) -> dict[str, int]:
        """Rank by module path, of the layers that were factored."""
        return {layer.path: layer.rank for layer in self.layers if layer.rank is not None}
