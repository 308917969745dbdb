"""Input-aware: ``min || W X - W' X ||^2`` (SVD-LLM, arXiv 2403.07378; objective 2 of AA-SVD, arXiv 2604.02119)."""

from __future__ import annotations

from typing import ClassVar, Literal

from eckart.methods.objectives.base import DataAwareObjective, InputSource


class InputAware(DataAwareObjective):
    """Z is X, the input in the original model, and T is W X. One pass over the original block serves all groups."""

    name: Literal["input-aware"] = "input-aware"
    input_source: ClassVar[InputSource] = InputSource.ORIGINAL
    takes_token_weights: ClassVar[bool] = True
