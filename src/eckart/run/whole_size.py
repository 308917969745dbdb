"""From the bytes that a whole model may take to the share of its linear layers' bytes that is kept."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from eckart.blocks.onload import WeightSource
from eckart.compression.embedding import bytes_of_tables
from eckart.compression.plan import Plan, make_plan, take_back
from eckart.data.calibration import Calibration
from eckart.errors import EckartError, ModelFitsError
from eckart.methods.layout import BYTES_PER_NUMBER
from eckart.methods.precision import AnyPrecision, Bits16
from eckart.methods.recipe import Recipe
from eckart.methods.sensitivity.layer_statistics import shapes_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

HEADER_BYTES = 128  # of a tensor in a file, at most: its name, shape and place
TENSORS_OF_A_LINEAR = 6  # at most, of a base and two factors with scales
SHARES = (0.8, 0.4, 0.27, 0.1)  # of bytes, by whose recipes those for all others are found
HALVINGS = 20  # of the range in which the least share is looked for


@dataclass(frozen=True)
class WholeSize:
    """What a size of the whole model leaves for its linear layers.

    Attributes:
        keep: the share of their bytes; the smallest one where there are several.
        shares: the share for each precision of the embedding among which an allocation chooses.
    """

    keep: float
    shares: tuple[tuple[AnyPrecision, float], ...] = ()


def check_size(size: int | None, keep: float | None) -> None:
    """Raise unless a size of the whole model, if there is one, is a number of bytes, and the only size.

    Raises:
        EckartError: says what was found.
    """
    if keep is not None and size is not None:
        raise EckartError("A model has a size or a share of its bytes to keep; found both. Give one of them.")
    if size is not None and (type(size) is not int or size < 1):
        raise EckartError(f"A size is a whole number of bytes, such as 80_000_000; found {size!r}.")


def check_size_is_met(dtype: torch.dtype | None) -> None:
    """Raise if a dtype is asked for in which a size cannot be met; None if none is.

    Raises:
        EckartError: says which can.
    """
    if dtype is not None:
        raise EckartError(
            f"A size is met with 16-bit numbers, and dtype asks for {dtype}. Use bfloat16 or float16, or keep in place "
            "of the size."
        )


def recipe_within_size(
    model: PreTrainedModel,
    recipe_for: Callable[[float], Recipe],
    size: int,
    weights: WeightSource,
    calibration: Calibration | None,
) -> tuple[Recipe, WholeSize]:
    """Return the recipe for a size, of several for different shares of bytes, and what the size leaves.

    Args:
        model: as for :func:`within_size`, like all others and what is raised.
        recipe_for: gives the recipe for a share of the linear layers' bytes.
        size: bytes of all files of weights.
        weights: where the model's tensors are.
        calibration: shows how the model calls its blocks.
    """
    refused: EckartError | None = None
    other: tuple[Recipe, WholeSize] | None = None
    for share in SHARES:
        recipe = recipe_for(share)
        try:
            room = within_size(model, recipe, size, weights, calibration)
        except ModelFitsError:
            raise
        except EckartError as error:  # another one may come in that size
            refused = error
            continue
        if recipe_for(room.keep) == recipe:
            return recipe, room
        other = recipe, room
    if other is None:
        assert refused is not None
        raise refused
    return other


def within_size(
    model: PreTrainedModel, recipe: Recipe, size: int, weights: WeightSource, calibration: Calibration | None
) -> WholeSize:
    """Return the shares of the linear layers' bytes that leave the files of weights at most so large.

    Args:
        model: to be compressed; is left as it is.
        recipe: says which layers are compressed, and how small they can become.
        size: bytes of all files of weights.
        weights: where the model's tensors are.
        calibration: shows how the model calls its blocks, if it takes no rows of tokens.

    Raises:
        ModelFitsError: the model is no larger as it is.
        EckartError: it cannot become so small; says how small.
    """
    plan = make_plan(model, recipe, 1.0, weights, calibration)
    try:
        own = [ref for ref in plan.linears if ref.path in plan.own]
        shared = [ref for ref in plan.linears if ref.path not in plan.own]
        dense = BYTES_PER_NUMBER * sum(ref.size for ref in shared)
        others = BYTES_PER_NUMBER * plan.other_parameters
        count = sum(1 for _ in model.parameters()) + TENSORS_OF_A_LINEAR * len(plan.linears)
        fixed = others + sum(plan.bytes_of(ref) for ref in own) + HEADER_BYTES * count
        if size >= BYTES_PER_NUMBER * plan.parameters + HEADER_BYTES * count:
            raise ModelFitsError(
                f"The model takes {_megabytes(BYTES_PER_NUMBER * plan.parameters)} in 16 bits, which is within "
                f"{_megabytes(size)}: there is nothing to compress. Ask for less, or take it as it is."
            )
        # Said by the recipe, or for its allocation to choose.
        free = plan.vocabulary is not None and recipe.embedding == Bits16() and recipe.allocation.embeddings
        tables: dict[AnyPrecision, int] = {recipe.embedding: plan.embedding_bytes}
        if free and plan.vocabulary is not None:
            tables = {choice: bytes_of_tables(plan.vocabulary, choice) for choice in recipe.allocation.embeddings}
        least_share = _least_share(plan)
        smallest = min(tables.values())
        least = fixed + smallest + least_share * dense
        if size < least:
            raise EckartError(
                f"With recipe {recipe.name!r} the model cannot take less than {_megabytes(least, up=True)}, of them "
                f"{_megabytes(fixed + smallest)} for all that is no linear layer or has a size of its own; found "
                f"{_megabytes(size)}. Ask for that size or more. Recipe auto goes down to 2 bits."
            )
        shares = [(choice, min((size - fixed - bytes_of) / dense, 1.0)) for choice, bytes_of in tables.items()]
        shares = [(choice, share) for choice, share in shares if share >= least_share]
        return WholeSize(min(share for _, share in shares), tuple(shares) if free else ())
    finally:
        take_back(model, weights)


def _least_share(plan: Plan) -> float:
    """Return the smallest share that the allocation can meet, about."""
    linears = tuple(x for x in shapes_of(plan.blocks) if x.path not in plan.own)
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        try:
            plan.recipe.allocation.unmeasured(linears, replace(plan.budgets, keep=middle), plan.recipe.layout)
        except EckartError:
            low = middle
        else:
            high = middle
    return high


def _megabytes(number: float, *, up: bool = False) -> str:
    """Return a number of bytes in words, with three digits, the last one rounded up if that is asked for."""
    if up and number > 0:
        unit = 10 ** (math.floor(math.log10(number)) - 2)
        number = math.ceil(number / unit) * unit
    return f"{number / 1e3:.3g} KB" if number < 1e6 else f"{number / 1e6:.3g} MB"
