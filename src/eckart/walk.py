"""The walk over the blocks: the one place where a model is compressed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel

from eckart.blocks import Block, Group, Target, find_block_list
from eckart.calibration import Calibration
from eckart.calls import BlockCall, capture_calls, check_calls_are_independent_of_tokens
from eckart.device import moment_device
from eckart.errors import CalibrationError, NonFiniteError
from eckart.layers import LowRankLinear, weight_matrix
from eckart.lowrank import Whitening, solve, truncate
from eckart.moments import Moments, relative_error
from eckart.objectives import Streams
from eckart.placement import Placement, placed
from eckart.plan import Plan
from eckart.recipe import Recipe
from eckart.report import LayerRecord, Report, Timings
from eckart.statistics import Calls, GroupInputs, Stream, advance, group_inputs, group_moments, input_moments


def compress_blocks(
    model: PreTrainedModel,
    recipe: Recipe,
    plan: Plan,
    calibration: Calibration | None,
    *,
    device: torch.device,
    on_layer: Callable[[LayerRecord], None] = lambda record: None,
) -> Report:
    """Replace the linears of ``model`` in place, block after block.

    Args:
        model: in evaluation mode; its blocks are moved to ``device`` one at a time.
        recipe: what to do.
        plan: the blocks and the ranks, from :func:`eckart.plan.make_plan`.
        calibration: the tokens; may be None if the objective looks at no data.
        device: where blocks are run and factored.
        on_layer: is called with the record of each layer as soon as it is done.

    Raises:
        CalibrationError: the objective needs tokens and there are none.
        NonFiniteError: a weight or an activation is NaN or infinite; names the layer.
    """
    walk = _Walk(recipe, plan, device, on_layer)
    with walk.timings.measure("total"):
        original: Stream = []
        calls: list[Calls] = [{} for _ in plan.blocks]
        if recipe.objective.needs_data:
            if calibration is None:
                raise CalibrationError(f"Recipe {recipe.name!r} looks at activations and needs calibration text.")
            with walk.timings.measure("statistics"):
                original, calls = _embed(model, calibration, device)
        compressed = original
        for block, block_calls in zip(plan.blocks, calls, strict=True):
            original, compressed = walk.compress_block(block, block_calls, original, compressed)
    return Report(
        recipe=recipe,
        requested_keep=plan.keep,
        calibration=calibration.record if calibration and recipe.objective.needs_data else None,
        layers=walk.records,
        parameters=plan.parameters,
        parameters_after=sum(parameter.numel() for parameter in model.parameters()),
        timings=walk.timings,
    )


def _embed(model: PreTrainedModel, calibration: Calibration, device: torch.device) -> tuple[Stream, list[Calls]]:
    """Return the stream in front of block 0, and how each block is called for each shape of batch."""
    _, blocks = find_block_list(model)
    stream = []
    calls: list[dict[torch.Size, BlockCall]] = [{} for _ in blocks]
    with placed(model, device, skip=(*blocks[1:], model.get_output_embeddings())):
        check_calls_are_independent_of_tokens(model, blocks, calibration.tokens.shape[1], device)
        for batch in calibration.batches():
            hidden, batch_calls = capture_calls(model, blocks, batch.to(device))
            for known, call in zip(calls, batch_calls, strict=True):
                known.setdefault(batch.shape, call)
            stream.append(hidden.cpu())
    return stream, list(calls)


@dataclass
class _Walk:
    """One walk: what it was told, and what it has done so far."""

    recipe: Recipe
    plan: Plan
    device: torch.device
    on_layer: Callable[[LayerRecord], None]
    records: list[LayerRecord] = field(default_factory=list)
    timings: Timings = field(default_factory=Timings)

    def compress_block(self, block: Block, calls: Calls, original: Stream, compressed: Stream) -> tuple[Stream, Stream]:
        """Replace the linears of one block, and return both streams behind it."""
        streams = self.recipe.objective.streams
        with placed(block.module, self.device) as placement:
            moments: dict[Group, Moments] = {}
            originals: GroupInputs | None = None
            with self.timings.measure("statistics"):
                if streams is Streams.ORIGINAL:
                    moments, original = input_moments(block.module, block.groups, calls, original, self.device)
                elif streams is Streams.BOTH:
                    untouched = copy.deepcopy(block.module)
                    originals, original = group_inputs(untouched, block.groups, calls, original, self.device)
                    del untouched
            in_order = streams in (Streams.COMPRESSED, Streams.BOTH)
            for group in block.groups:
                if in_order:
                    with self.timings.measure("statistics"):
                        inputs = originals.inputs.pop(group) if originals else None
                        moments[group] = group_moments(block.module, group, calls, compressed, self.device, inputs)
                self._compress_group(block, group, moments.pop(group, None), originals, placement)
            if in_order:
                with self.timings.measure("statistics"):
                    compressed = advance(block.module, calls, compressed, self.device)
        return original, compressed

    def _compress_group(
        self,
        block: Block,
        group: Group,
        moments: Moments | None,
        originals: GroupInputs | None,
        placement: Placement,
    ) -> None:
        paths = ", ".join(target.path for target in group.targets)
        if moments is not None and not moments.is_finite():
            raise NonFiniteError(f"The input of {paths} is NaN or infinite on the calibration tokens.")
        with self.timings.measure("factorisation"):
            ranks = [self.plan.ranks[target.path] for target in group.targets]
            whitening = None
            if any(rank is not None for rank in ranks):
                whitening = self.recipe.objective.whitening(
                    moments, group.targets[0].in_features, moment_device(self.device)
                )
            for target, rank in zip(group.targets, ranks, strict=True):
                energy = originals.output_energies.get(target, 0.0) if originals else 0.0
                record = self._compress_linear(block, target, rank, moments, whitening, energy, placement)
                self.records.append(record)
                self.on_layer(record)

    def _compress_linear(
        self,
        block: Block,
        target: Target,
        rank: int | None,
        moments: Moments | None,
        whitening: Whitening | None,
        output_energy: float,
        placement: Placement,
    ) -> LayerRecord:
        linear = block.module.get_submodule(target.name)
        weight = weight_matrix(linear).detach().to(moment_device(self.device), torch.float64)
        if not torch.isfinite(weight).all():
            raise NonFiniteError(f"The weight of {target.path} is NaN or infinite. The model is not usable as it is.")
        product = weight
        if rank is not None:
            assert whitening is not None
            cross_moment = None
            if moments is not None:
                cross_moment = self.recipe.objective.cross_moment(weight, moments, whitening, rank)
            second, first = truncate(solve(whitening, cross_moment, weight), rank)
            stored = placement.dtype(f"{target.name}.weight")
            # The next layers must see the numbers that will be stored, not those before rounding.
            layer = LowRankLinear.from_factors(linear, second.to(stored), first.to(stored))
            placement.replace(target.name, layer)
            product = layer.product().to(weight.device)
        return LayerRecord(
            path=target.path,
            out_features=target.out_features,
            in_features=target.in_features,
            rank=rank,
            bytes=self.recipe.structure.bytes(target.out_features, target.in_features, rank),
            error=relative_error(weight, product, moments, output_energy),
        )
