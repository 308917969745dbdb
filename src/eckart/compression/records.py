"""What a run notes down for whoever reads its result later: errors by depth, spectra, and what it cost."""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from eckart.files.field_types import Count, Label

# Tokens whose hidden states are followed through both models: enough for means over tokens, and few beside those of a
# calibration, so that recipes which look at one model only can afford to follow them too.
RECORDED_SAMPLES, RECORDED_LENGTH = 2, 128
SPECTRUM_POINTS = 512  # of a layer that are kept, at most
SPECTRUM_HEAD = 128  # of them, from the largest on without a gap


class DriftError(BaseModel):
    """How far outputs of the compressed model are from those of the original one, each in its own stream.

    Attributes:
        relative: mean over tokens of ``||y' - y|| / ||y||``. A mean of ratios, since in many language models one token
            is a thousand times the others, and would be all that a ratio of sums tells of.
        cosine: mean over tokens of ``1 - cos(y', y)``.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    relative: float
    cosine: float


class BlockRecord(BaseModel):
    """Errors in one block after its refinement, on the first calibration tokens.

    Attributes:
        path: of the block.
        output: of the hidden states behind it.
        layers: of the outputs of its target linears, by path, those that stayed dense too. An error is None where it
            is not finite, or where the two models hand a layer different tokens, as routed experts do.
    """

    model_config = ConfigDict(frozen=True)

    path: Label
    output: DriftError | None
    layers: dict[str, DriftError | None]


class Memory(BaseModel):
    """Largest memory of the process, in bytes: as it was, and as was expected; None where there is no accelerator."""

    model_config = ConfigDict(frozen=True)

    host: Count
    expected_host: Count
    device: Count | None = None
    expected_device: Count | None = None


def drift_error(original: Tensor, compressed: Tensor) -> DriftError | None:
    """Compare two lists of vectors, (..., width) in any float dtype; None if there is no number that tells of them."""
    if original.shape != compressed.shape or not original.numel():
        return None
    y, other = original.flatten(0, -2).double(), compressed.flatten(0, -2).double()
    sizes, others = y.norm(dim=1), other.norm(dim=1)
    known = sizes > 0  # of a vector of zeros there is no relative error
    if not known.any():
        return None
    relative = ((other - y).norm(dim=1)[known] / sizes[known]).mean()
    # A vector of zeros has no direction; it counts as one that is at right angles.
    products = (sizes * others)[known]
    cosine = (1 - (y * other).sum(dim=1)[known] / torch.where(products > 0, products, 1.0)).clamp_min(0).mean()
    if not (torch.isfinite(relative) and torch.isfinite(cosine)):
        return None
    return DriftError(relative=float(relative), cosine=float(cosine))


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
