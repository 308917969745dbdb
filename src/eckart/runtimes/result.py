"""What an export gives back."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict


class Export(BaseModel):
    """What was written, and how far it is from the model in memory.

    Attributes:
        target: the format's name.
        folder: that was written.
        dtype: of the numbers in it, where they are floats.
        quantize: how weights were rounded by the runtime's tools; None for not at all.
        parts: the graphs that the model was taken apart into.
        difference: the largest one of logits (or of what else the model returns) between the file, run by its runtime,
            and the model in memory, on sample inputs.
        largest: absolute logit of the model in memory on these inputs.
        tolerance: share of the largest logit that the difference had to stay below; None where weights were rounded.
        bytes_written: of the programs and weights.
        bytes_before: of the weights in memory, as the model holds them: codes, factors and all else.
        merged: linear layers whose factors or codes were multiplied into a dense weight.
    """

    model_config = ConfigDict(frozen=True)

    target: str
    folder: Path
    dtype: str
    quantize: str | None
    parts: list[str]
    difference: float
    largest: float
    tolerance: float | None
    bytes_written: int
    bytes_before: int
    merged: int
