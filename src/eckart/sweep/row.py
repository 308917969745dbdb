"""One measurement of a sweep, with all that is needed to repeat it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from eckart.data.calibration import CalibrationRecord
from eckart.evaluate.perplexity import Perplexity
from eckart.files.field_types import Count, Label
from eckart.methods.recipe import Recipe


class SpeedResult(BaseModel):
    """How fast a model ran on the machine of the sweep, and how fast the dense one did in the same run.

    Attributes:
        prefill: tokens a second of a prompt.
        decode: tokens a second of one sequence that is generated.
        dense_prefill: of the dense model.
        dense_decode: of the dense model.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    prefill: float
    decode: float
    dense_prefill: float
    dense_decode: float


class SweepRow(BaseModel):
    """What one recipe at one size gave.

    Attributes:
        model: name of the dense model.
        revision: of it on its hub, or a hash of its numbers and configuration; None if neither is known.
        label: of the recipe, as asked for: its name and ``+key=value`` overrides; ``dense`` for the model as it is.
        recipe: whole; None for the dense model.
        keep: the share that was asked for.
        kept: stored bytes of the target linears over their dense 16-bit bytes.
        bytes: of the whole model, in what it is stored as.
        calibration: None if the recipe looks at no data.
        texts: perplexity by the name of the text.
        ranks: by path of each target linear; None for one that is not factored.
        seconds: that compressing took, without what it shared with other rows.
        shared_seconds: that the statistics took which it shares with other rows: of all of them, once; 0 if it shares
            none.
        speed: None if it was not measured.
        versions: of Eckart, PyTorch and transformers.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    model: str
    revision: str | None
    label: str
    recipe: Recipe | None
    keep: float
    kept: float
    bytes: Count
    calibration: CalibrationRecord | None
    texts: dict[str, Perplexity]
    ranks: dict[Label, Count | None] = {}
    seconds: float
    shared_seconds: float = 0.0
    speed: SpeedResult | None = None
    versions: dict[str, str]
