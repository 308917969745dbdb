"""What a walk over the blocks notes down, as data."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Discriminator, Field, SerializerFunctionWrapHandler, model_serializer
from torch import Tensor

from eckart.compression.drift import BlockDrift
from eckart.files.field_types import Count, Label, Size
from eckart.methods.distillation.record import DistillationRecord
from eckart.methods.layout import dense_bytes
from eckart.methods.precision import AnyBase
from eckart.methods.preparation.record import PreparationRecord
from eckart.methods.refinement.record import RefinementRecord

SPECTRUM_POINTS = 512  # of a layer that are kept, at most
SPECTRUM_HEAD = 128  # of them, from the largest on without a gap


class SketchRecord(BaseModel):
    """What a layer lost whose equation was solved from a sketch, before its numbers were rounded.

    ``loss`` is the share of ``||W_ls R||^2`` that its rank leaves out, ``W_ls`` being the best weight of any rank (see
    :mod:`eckart.maths.lowrank`). ``excess`` is how much more that is than the least that can be left out, as a share of
    the least; None where nobody solved it exactly, too. Of a layer that is solved several times, those of the solution
    with the largest excess.
    """

    model_config = ConfigDict(frozen=True)

    loss: float
    excess: float | None = None


class LayerRecord(BaseModel):
    """One linear layer: its shape, its rank (None: left dense), its stored bytes and its error.

    ``error`` is ``||T - W' Z|| / ||T||`` on the calibration tokens, T the outputs that the objective compares with;
    for an objective without data it is ``||W - W'|| / ||W||``. ``unresolved`` is the share of ``||T||^2``, at most,
    that no rank could explain, since its inputs cannot be told from rounding. ``in_order``: whether the layer is
    pivoted and computes its outputs in order, so that no index is stored. ``sketch``: of a layer whose equation was
    solved from one. ``base``: how the weight beside the factors is stored, or the weight itself if it is not factored,
    where the allocation chose that for each layer. ``columns``: how many input columns are whole beside factors of
    that rank, where the structure finds that for each layer. ``sparsity``: how many numbers there would be for one that
    is there, where the allocation chose that for each layer. ``kept``: which outputs or inputs the rank counts, of a
    layer that is not factored but has fewer of them; of what gives hidden units or values, ``error`` is that of the
    linear behind them. ``direct``: whether those that are dropped are missing on the other side, too.
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
    sketch: SketchRecord | None = None
    base: Annotated[AnyBase, Discriminator("name")] | None = None
    columns: Annotated[int, Field(ge=0)] | None = None
    sparsity: Annotated[float, Field(ge=1)] | None = None
    kept: Literal["outputs", "inputs"] | None = None
    direct: bool = False

    @model_serializer(mode="wrap")
    def _without_what_is_not_there(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # As before there were such: records of layers without them stay the same to the byte.
        unsaid = ("sketch", "base", "columns", "sparsity", "kept")
        found = {k: v for k, v in write(self).items() if v is not None or k not in unsaid}
        return found if self.direct else {k: v for k, v in found.items() if k != "direct"}

    @property
    def dense_bytes(self) -> int:
        """Bytes of the layer's weight in 16-bit numbers."""
        return dense_bytes(self.out_features, self.in_features)


class Records(BaseModel):
    """What is known of the blocks that are finished. A new quantity is one line here.

    Attributes:
        layers: every linear of the blocks, in order of execution.
        preparations: every block that was prepared, in order of execution.
        refinements: every block that was refined, in order of execution.
        distillation: what it did; None if there was none. Errors of layers and blocks are those before it.
        blocks: errors by depth; empty if the recipe looks at no data.
        spectra: singular values of the layers that were factored, by path, as :func:`thin_spectrum` gives them; not of
            those that were solved from a sketch, which has no others than those that were kept. They are saved in a
            file of their own.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    layers: list[LayerRecord] = []
    preparations: list[PreparationRecord] = []
    refinements: list[RefinementRecord] = []
    distillation: DistillationRecord | None = None
    blocks: list[BlockDrift] = []
    spectra: dict[str, Tensor] = Field(default_factory=dict, exclude=True)

    @model_serializer(mode="wrap")
    def _without_what_is_not_there(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # As before there was such a list: records of runs without one stay the same to the byte.
        return {k: v for k, v in write(self).items() if v or k != "preparations"}

    def and_block(
        self,
        layers: list[LayerRecord],
        preparation: PreparationRecord | None,
        refinement: RefinementRecord | None,
        drift: BlockDrift | None,
        spectra: dict[str, Tensor],
    ) -> Records:
        """Return these records with those of one more block."""
        return Records(
            layers=[*self.layers, *layers],
            preparations=[*self.preparations, *([] if preparation is None else [preparation])],
            refinements=[*self.refinements, *([] if refinement is None else [refinement])],
            distillation=self.distillation,
            blocks=[*self.blocks, *([] if drift is None else [drift])],
            spectra={**self.spectra, **spectra},
        )


def thin_spectrum(singular_values: Tensor, rank: int) -> Tensor:
    """Return (2, points) float32 on the host: the numbers of some components, from 1, and their singular values.

    The head is whole, the rest evenly spaced; both ends and the components on either side of the cut are among them.

    Args:
        singular_values: (p,), falling.
        rank: how many of them were kept.
    """
    count = len(singular_values)
    places = torch.arange(count)
    if count > SPECTRUM_POINTS:
        cut = torch.tensor([min(max(place, 0), count - 1) for place in (rank - 1, rank)])
        rest = torch.linspace(SPECTRUM_HEAD, count - 1, SPECTRUM_POINTS - SPECTRUM_HEAD - len(cut)).round().long()
        places = torch.unique(torch.cat([places[:SPECTRUM_HEAD], rest, cut]))  # sorted
    return torch.stack([places + 1.0, singular_values.cpu()[places].float()])
