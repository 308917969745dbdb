"""What the rows of a sweep share: one pass over the original model, and its weights' components, solved once."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

import torch

from eckart.blocks.block import Block
from eckart.blocks.blockwise_model import BlockwiseModel
from eckart.blocks.discovery import find_blocks
from eckart.blocks.fuse import fuse
from eckart.blocks.onload import ResidentWeights
from eckart.blocks.tensor_cache import ScratchSpace
from eckart.compression.plan import fusions_of, probe_of, takes_gradients
from eckart.compression.request import request_of
from eckart.compression.targets import Targets, choose_targets, named_outside, without
from eckart.data.calibration import Calibration
from eckart.device import free_memory
from eckart.errors import EckartError
from eckart.methods.allocation.base import OwnMeasurement, Storage, Wanted
from eckart.methods.recipe import Recipe
from eckart.methods.sensitivity.layer_statistics import shapes_of
from eckart.methods.sensitivity.measure import Progress, measure_all
from eckart.methods.sensitivity.measurements import Measurements
from eckart.methods.sensitivity.request import Request, merge
from eckart.sweep.case import request_for

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FLOAT32, FLOAT64 = 4, 8
SHARE_OF_MEMORY = 0.5  # that what is kept may take; models that are made of it, and their evaluation, take some too


class Measure(Protocol):
    """What measures several requests at once, as :func:`eckart.methods.sensitivity.measure.measure_all` does."""

    def __call__(
        self, original: BlockwiseModel, requests: Sequence[Request], progress: Progress, *, first: int
    ) -> list[Measurements]:
        """Return what each request asks for."""


@dataclass
class Statistics:
    """What was measured on the original model, for several recipes.

    Attributes:
        original: the model, its linears fused if the recipes share bases.
        requests: what each recipe asked for, merged with what others did.
        measured: what was found for each of them.
        errors: why nothing was found.
        seconds: that the measurement took.
    """

    original: BlockwiseModel
    requests: dict[Recipe, Request] = field(default_factory=dict)
    measured: dict[Request, Measurements] = field(default_factory=dict)
    errors: Mapping[Request, EckartError] = field(default_factory=dict)
    seconds: float = 0.0
    _own: dict[Recipe, Measurements] = field(default_factory=dict)

    def measurements(self, recipe: Recipe) -> Measurements:
        """Return what was measured for a recipe.

        Raises:
            EckartError: the measurement failed.
        """
        request = self.requests.get(recipe)
        if request is None:
            return Measurements(shapes_of(self.original.blocks))
        if request in self.errors:
            raise self.errors[request]
        return self.measured[request]

    def storage(self, recipe: Recipe, keep: float, progress: Progress = lambda done, total: None) -> Storage:
        """Return how ``eckart compress`` would store linears; trials of a search are made for all sizes at once.

        Args:
            recipe: one of those that statistics were collected for.
            keep: bytes to keep, as a share.
            progress: is called with (steps done, steps to do) if more is measured.

        Raises:
            EckartError: the budget cannot be met.
            NonFiniteError: the measurement failed.
        """
        allocation, measured = recipe.allocation, self.measurements(recipe)
        targets = choose_targets(self.original.model, self.original.blocks, recipe, keep, check=False)
        measured = replace(measured, linears=tuple(x for x in measured.linears if x.path in targets.paths))
        if targets.budgets.chooses and allocation.own_measurement is not OwnMeasurement.NONE:
            measured = self._measured_alone(recipe, targets, measured, progress)
        return allocation.storage_within(measured.linears, targets.budgets, recipe.layout)

    def _measured_alone(
        self, recipe: Recipe, targets: Targets, measured: Measurements, progress: Progress
    ) -> Measurements:
        """Return what an allocation measures itself; for all sizes at once, if it does not depend on them."""
        if recipe in self._own:
            return self._own[recipe]
        wanted = Wanted(targets.budgets, recipe.layout, request_of(recipe), progress)
        found = recipe.allocation.measure(replace(self.original, blocks=targets.blocks), measured, wanted)
        if recipe.allocation.own_measurement is OwnMeasurement.ONCE:
            self._own[recipe] = found
        return found

    def close(self) -> None:
        """Give back the files, if there are any."""
        self.original.scratch.close()


def collect(
    model: PreTrainedModel,
    wanted: Mapping[Recipe, Sequence[float]],
    calibration: Calibration | None,
    device: torch.device,
    *,
    limit: int | None = None,
    measure: Measure = measure_all,
    progress: Progress = lambda done, total: None,
) -> Statistics:
    """Measure at once what all recipes ask for.

    Where a measurement fails (a gradient may be infinite where no activation is), the others are made one by one.

    Args:
        model: in evaluation mode and in memory.
        wanted: recipes, which all find the same linears and share bases of the same or of none, and the sizes that each
            is wanted at.
        calibration: the tokens; None if no recipe looks at data.
        device: where blocks are run.
        limit: bytes that what is kept may take in memory; else it goes to files. By default half of what is free.
        measure: what measures several requests at once.
        progress: is called with (blocks done, blocks to do).
    """
    weights = ResidentWeights()
    recipes = list(wanted)
    blocks = blocks_for_all(recipes, model, weights, calibration)
    if recipes and recipes[0].sharing.fuses:
        model = copy.deepcopy(model)
        targets = choose_targets(model, blocks_for_all(recipes, model, weights, calibration), recipes[0], 1.0)
        fuse(model, fusions_of(recipes[0], targets), weights)
        blocks = blocks_for_all(recipes, model, weights, calibration)
    # What all of them leave as it is is not measured.
    left = [choose_targets(model, blocks, recipe, 1.0, check=False).left for recipe in wanted]
    blocks = without(blocks, frozenset.intersection(*left)) if left else blocks
    shapes = shapes_of(blocks)
    asked = {recipe: request_for(recipe, keep, shapes) for recipe, keep in wanted.items()}
    merged = merge(request for request in asked.values() if request is not None)
    if limit is None:
        limit = int(SHARE_OF_MEMORY * free_memory(torch.device("cpu")))
    held = sum(kept_bytes(request, blocks) for request in merged)
    original = BlockwiseModel(model, blocks, weights, device, ScratchSpace(), calibration).settled()
    numbers = 0 if calibration is None else original.stream_numbers
    held += stream_bytes(merged, recipes, blocks, numbers, model.dtype)
    original = replace(original, scratch=ScratchSpace(held <= limit))
    measured: dict[Request, Measurements] = {}
    errors: dict[Request, EckartError] = {}
    start = perf_counter()
    try:
        found = measure(original, merged, progress, first=0) if merged else []
        measured.update(zip(merged, found, strict=True))
    except EckartError as error:
        errors = dict.fromkeys(merged, error)
        for number, request in enumerate(merged if len(merged) > 1 else []):
            try:
                (measured[request],) = measure(original, [request], progress, first=number)
                del errors[request]
            except EckartError as own:
                errors[request] = own
    answered = {
        recipe: next(known for known in merged if known.merged(request) == known)
        for recipe, request in asked.items()
        if request is not None
    }
    return Statistics(original, answered, measured, errors, perf_counter() - start)


def blocks_for_all(
    recipes: Sequence[Recipe],
    model: PreTrainedModel,
    weights: ResidentWeights,
    calibration: Calibration | None = None,
) -> list[Block]:
    """Return the blocks of a model with what a measurement for several recipes wants to know of them.

    Args:
        recipes: that all find the same linears.
        model: to look into.
        weights: where its tensors are.
        calibration: as for :func:`eckart.compression.plan.blocks_for`.
    """
    outside = frozenset[str]().union(*(named_outside(model, recipe) for recipe in recipes))
    return find_blocks(
        model,
        weights,
        probe_of(model, calibration),
        units=any(recipe.structure.reorders_units for recipe in recipes),
        gradients=any(map(takes_gradients, recipes)),
        outside=outside.__contains__,
    )


def kept_bytes(request: Request, blocks: Sequence[Block]) -> int:
    """Return the bytes of what a measurement keeps until all models are made of it."""
    refs = [ref for block in blocks for ref in block.linears]
    widths = [group.linears[0].in_features for block in blocks for group in block.groups]
    metric = request.objective.output_metric is not None
    bases = sum(t.out_features * min(t.shape) for t in refs) * FLOAT32 * (2 if metric else 1)
    metrics = sum(t.out_features**2 // t.runs for t in refs) * FLOAT32
    inputs = sum(2 * width**2 + width for width in widths) * FLOAT64
    moments = sum(width**2 + 2 * width for width in widths) * FLOAT32
    return (
        (bases if request.keep_bases else 0)
        + (metrics if metric or request.keep_metrics else 0)
        + (inputs if request.keep_inputs else 0)
        + (moments if request.keep_moments else 0)
    )


def stream_bytes(
    requests: Sequence[Request], recipes: Sequence[Recipe], blocks: Sequence[Block], numbers: int, dtype: torch.dtype
) -> int:
    """Return the bytes of the hidden states and gradients of a measurement, for hidden states of so many numbers."""
    if not any(request.looks_at_data for request in requests):
        return 0
    labels = {labels for r in requests for labels in (r.next_labels, r.metric_labels)} - {None}
    linears = sum(len(block.linears) for block in blocks)
    own = max((recipe.allocation.own_streams(linears) for recipe in recipes), default=0)
    return numbers * (dtype.itemsize * (len(blocks) + 1 + own) + FLOAT32 * 2 * len(labels))
