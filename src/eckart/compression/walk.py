"""The walk over the blocks: the one place where a model is compressed."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from eckart import processes
from eckart.blocks.block import Block, Group, LinearRef
from eckart.blocks.blockwise_model import BlockwiseModel
from eckart.blocks.onload import OnloadedModule
from eckart.blocks.passes import (
    GroupInputs,
    HiddenStates,
    advance,
    group_inputs,
    group_moments,
    input_moments,
    output_projectors,
)
from eckart.blocks.routed_passes import routed_moments
from eckart.blocks.tensor_cache import ScratchSpace
from eckart.compression.block_trainings import BlockTrainings
from eckart.compression.callback import Callback
from eckart.compression.costs import Costs, Timings
from eckart.compression.distil.run import distil, put_layers
from eckart.compression.drift import (
    BlockDrift,
    FollowedTokens,
    Outputs,
    compare,
    original_linears,
    original_weights,
    outputs_of,
)
from eckart.compression.embedding import RoundedTables
from eckart.compression.given_layers import give_layer
from eckart.compression.plan import Plan
from eckart.compression.records import LayerRecord
from eckart.compression.replacing import replacing
from eckart.compression.result import CompressionResult
from eckart.compression.state import RunCheckpoint, WalkState
from eckart.compression.unit_order import order_units
from eckart.compression.walk_streams import COMPRESSED, FOLLOWED, ORIGINAL, WalkStreams
from eckart.device import give_back_memory, moment_device
from eckart.errors import CalibrationError
from eckart.maths.moments import Moments
from eckart.methods.distillation import ModelTraining
from eckart.methods.objectives import InputSource
from eckart.methods.sensitivity.measurements import Measurements


def compress_blocks(
    model: BlockwiseModel,
    plan: Plan,
    measurements: Measurements | None = None,
    *,
    student: ScratchSpace | None = None,
    run_checkpoint: RunCheckpoint | None = None,
    recompute: bool = False,
    inputs_kept: bool = False,
    callback: Callback | None = None,
) -> CompressionResult:
    """Replace the linears of a model, block after block.

    Args:
        model: its blocks are onloaded one at a time; where its tensors are in memory, they are replaced in place.
        plan: the recipe, the blocks and the ranks, from :func:`eckart.compression.allocate.allocate`.
        measurements: that came with them.
        student: where what a distillation trains lives; by default where hidden states do.
        run_checkpoint: saves the finished blocks, and knows those of an earlier run.
        recompute: compute activations twice in a training instead of holding them.
        inputs_kept: whether ``measurements`` hold all that the objective asks of inputs: no token is looked at then.
            For objectives that look at the original model only, and recipes that train nothing.
        callback: is told what happens.

    Raises:
        CalibrationError: the recipe needs tokens and there are none.
        NonFiniteError: a weight or an activation is NaN or infinite; names the layer.
    """
    recipe = plan.recipe
    if recipe.needs_data and model.calibration is None and not inputs_kept:
        raise CalibrationError(f"Recipe {recipe.name!r} looks at activations and needs calibration text.")
    walk = _Walk(
        model=model if recipe.needs_data and not inputs_kept else replace(model, calibration=None),
        plan=plan,
        measurements=measurements or Measurements(()),
        student=student or model.scratch,
        run_checkpoint=run_checkpoint,
        recompute=recompute,
        inputs_kept=inputs_kept,
        callback=callback or Callback(),
    )
    tables = RoundedTables.of(model, plan.vocabulary, plan.embedding, plan.embedding_loss)
    report = walk.run()
    return report if tables is None else report.model_copy(update={"embedding": tables.put_into(model)})


@dataclass
class _OriginalPass:
    """What a pass of the original model's hidden states through a block gave."""

    behind: HiddenStates | None = None
    moments: dict[Group, Moments] = field(default_factory=dict)
    inputs: GroupInputs = field(default_factory=lambda: GroupInputs({}, {}))
    projectors: Mapping[LinearRef, Tensor] = field(default_factory=dict)


@dataclass
class _Walk:
    """One walk: what it was told, and what it has measured."""

    model: BlockwiseModel
    plan: Plan
    measurements: Measurements
    student: ScratchSpace
    run_checkpoint: RunCheckpoint | None
    recompute: bool
    inputs_kept: bool
    callback: Callback
    timings: Timings = field(default_factory=Timings)

    def __post_init__(self) -> None:
        self.recipe = self.plan.recipe
        self.stage: dict[Group, Moments] = {}  # of routed groups whose turn has not come
        self.entry: HiddenStates | None = None  # in front of the first block, if they are needed to the end
        self.streams = WalkStreams(self.model, self.recipe, moments_kept=bool(self.measurements.moments))
        device = moment_device(self.model.device)
        self.factoriser = replacing(self.plan, self.measurements, device, inputs_kept=self.inputs_kept)
        self.trainings = BlockTrainings(
            self.plan, self.streams, self.measurements, device, self.recompute, self.callback, self.timings
        )

    def run(self) -> CompressionResult:
        """Walk over all blocks that are not finished yet, and distil the model if that is wanted."""
        with self.timings.measure("total"):
            state = self.run_checkpoint.resume() if self.run_checkpoint else None
            blocks, distillation = self.plan.blocks, self.recipe.distillation.training
            if distillation is not None and distillation.adapts_factors and not any(self.plan.ranks.values()):
                distillation = None  # there are no factors
            known = 0 if state is None else state.finished
            if distillation is not None and (state is None or state.records.distillation is None):
                self.entry = self.student.cache("entry", self.model.dtype)
            first: WalkState | None = None
            if self.model.calibration is not None and (known < len(blocks) or self.entry is not None):
                with self.timings.measure("statistics"):
                    first = self.streams.start(self.entry)
                    if state is not None:
                        self.streams.reenter(state)
            state = state or first or WalkState()
            while state.finished < len(blocks):
                state = self._advance(state, blocks[state.finished])
                self.callback.on_block(state.finished)
            layers = {layer.path: layer for layer in state.records.layers}
            for block in blocks[:known]:  # an earlier run wrote them; who describes the model looks at its layers
                put_layers(block, layers, self.recipe.layout)
            if distillation is not None and state.records.distillation is None:
                state = self._distil(distillation, state)
        calibration = self.model.calibration
        return CompressionResult(
            recipe=self.recipe,
            requested_keep=self.plan.keep,
            calibration=None if calibration is None else calibration.record,
            parameters=self.plan.parameters,
            costs=Costs(timings=self.timings, memory=None),
            **dict(state.records),
        )

    def _advance(self, state: WalkState, block: Block) -> WalkState:
        """Compress one block and return the state behind it."""
        with ExitStack() as stack:
            with self.timings.measure("files"):
                onloaded = stack.enter_context(self.model.onload(state.finished))
            behind = self._compress(state, block, onloaded)
            with self.timings.measure("statistics"):
                behind = self.streams.entered(behind)
            with self.timings.measure("files"):
                if self.run_checkpoint is not None:
                    self.run_checkpoint.save(behind, block, onloaded.stored())
        kept = {id(stream) for stream in behind.streams}
        for stream in state.streams:
            if id(stream) not in kept:
                stream.delete()
        give_back_memory(self.model.device)
        return behind

    def _compress(self, state: WalkState, block: Block, onloaded: OnloadedModule) -> WalkState:
        """Prepare a block, factor its linears group by group, refine it, and move the hidden states behind it."""
        number = state.finished
        outputs = None
        if state.followed is not None:
            with self.timings.measure("records"), original_weights(onloaded):
                outputs = outputs_of(block, self.streams.few_original.block_pass(number), state.followed.original)
        with self.timings.measure("statistics"):
            seen = self._observe_original(state, block)
        preparation = self.trainings.prepare(state, seen.behind, seen.moments, block, onloaded)
        layers: list[LayerRecord] = []
        lent = original_linears(onloaded, block.linears_in_mixtures, copied=self.recipe.refinement.training is not None)
        for groups in self._rounds(block):
            layers += self._replace(state, block, groups, onloaded, seen, lent)
        seen.inputs.delete()
        # Before the refinement, which may train what is between the linears so that units are no longer alike.
        layers, outputs = order_units(block, layers, outputs, self.recipe.structure)
        outputs = self.factoriser.comparable(block, outputs)
        refinement = None
        if any(self.plan.changes(layer.path) for layer in (*state.records.layers, *layers)):
            refinement = self.trainings.refine(state, seen.behind, block, onloaded)
        compressed = None
        with self.timings.measure("statistics"):
            if state.compressed is not None and self._is_looked_at(number):
                compressed = self.streams.compressed.advance(number, state.compressed, COMPRESSED)
        with self.timings.measure("records"):
            followed, drift = self._follow(state, block, outputs, lent)
            self.factoriser.finish(block)
            found = self.factoriser.spectra
            spectra = {ref.path: found[ref.path] for ref in block.linears if ref.path in found}
        records = state.records.and_block(layers, preparation, refinement, drift, spectra)
        return replace(
            state, finished=number + 1, original=seen.behind, compressed=compressed, followed=followed, records=records
        )

    def _rounds(self, block: Block) -> list[tuple[Group, ...]]:
        """Return groups of a block in order, those together whose equations are dealt out at once."""
        apart = self.recipe.objective.input_source in (InputSource.COMPRESSED, InputSource.BOTH)
        return [(group,) for group in block.groups] if apart or processes.size() == 1 else [block.groups]

    def _replace(
        self,
        state: WalkState,
        block: Block,
        groups: tuple[Group, ...],
        onloaded: OnloadedModule,
        seen: _OriginalPass,
        lent: Mapping[str, nn.Module],
    ) -> list[LayerRecord]:
        """Replace the linears of some groups, each in the process that it is dealt to."""
        refs = self.factoriser.due(groups)
        owners = dict(zip(refs, self.factoriser.owners(refs), strict=True))
        own = {ref for ref, owner in owners.items() if owner == processes.rank()}
        made: dict[str, LayerRecord] = {}
        for group in groups:
            with self.timings.measure("statistics"):
                moments = self._moments(state, block, group, seen, lent)
            with self.timings.measure("factorisation"):
                records = self.factoriser.replace_group(
                    onloaded, group, moments, seen.inputs.output_energies, seen.projectors, own
                )
                made |= {record.path: record for record in records}
                del moments
                give_back_memory(self.model.device)
        with self.timings.measure("factorisation"):
            spectra = self.factoriser.spectra
            layers = [give_layer(onloaded, self.plan, r, owners[r], made.get(r.path), spectra) for r in refs]
        for layer in layers:
            self.callback.on_layer(layer)
        return layers

    def _is_looked_at(self, number: int) -> bool:
        """Return whether anybody looks at the hidden states behind a block."""
        recipe = self.recipe
        trains = recipe.refinement.needs_data or recipe.distillation.needs_data
        trains = trains or recipe.preparation.training is not None
        return trains or number + 1 < len(self.plan.blocks)

    def _follow(
        self, state: WalkState, block: Block, original: Outputs | None, lent: Mapping[str, nn.Module]
    ) -> tuple[FollowedTokens | None, BlockDrift | None]:
        """Return the few tokens behind a block, and its errors, from what the original block gave on them."""
        if original is None or state.followed is None:
            return None, None
        run = self.streams.few_compressed.block_pass(state.finished)
        compressed = outputs_of(block, run, state.followed.compressed, original, lent)
        followed = self.streams.behind(FOLLOWED, state.finished)
        return FollowedTokens.of(followed, original.hidden, compressed.hidden), compare(block, original, compressed)

    def _observe_original(self, state: WalkState, block: Block) -> _OriginalPass:
        """Run the block as it is in the original model over that model's hidden states, if anybody looks at them."""
        seen, kept = _OriginalPass(), self.measurements.moments
        if kept:
            seen.moments = {group: kept[group.linears[0].path] for group in block.groups}
        if state.original is None:
            return seen
        seen.behind = self.streams.behind(ORIGINAL, state.finished) if self._is_looked_at(state.finished) else None
        run, objective = self.streams.original.block_pass(state.finished), self.recipe.objective
        if objective.input_source is InputSource.ORIGINAL and not kept:
            seen.moments = input_moments(run, block.groups, state.original, seen.behind)
            if objective.observes_outputs:
                ranks = {ref: rank for ref in block.linears if (rank := self.plan.ranks[ref.path])}
                seen.projectors = output_projectors(run, ranks, state.original)
        elif objective.input_source is InputSource.BOTH:
            seen.inputs = group_inputs(run, block.groups, state.original, seen.behind, self.model.scratch.cache)
        elif seen.behind is not None:
            advance(run, state.original, seen.behind)
        return seen

    def _moments(
        self,
        state: WalkState,
        block: Block,
        group: Group,
        seen: _OriginalPass,
        lent: Mapping[str, nn.Module],
    ) -> Moments | None:
        """Return the moments of a group's input that the objective asks for."""
        if self.recipe.objective.input_source not in (InputSource.COMPRESSED, InputSource.BOTH):
            return seen.moments.pop(group, None)
        assert state.compressed is not None
        originals, run = seen.inputs.inputs.get(group), self.streams.compressed.block_pass(state.finished)
        if group.routed:
            if group not in self.stage:
                beside = [other for other in block.groups if other == group or other.stage == group.stage is not None]
                paired = self.recipe.objective.input_source is InputSource.BOTH
                streams = seen.inputs.mixtures
                self.stage = routed_moments(run, tuple(beside), state.compressed, streams, lent, paired=paired)
            return self.stage.pop(group)
        moments = group_moments(run, group, state.compressed, originals, seen.inputs.residuals)
        if originals is not None:
            originals.delete()
        return moments

    def _distil(self, config: ModelTraining, state: WalkState) -> WalkState:
        """Distil the finished model, and put what comes of it in the place of what was there.

        Args:
            config: of the training.
            state: behind the last block.
        """
        assert self.entry is not None
        assert state.original is not None
        with self.timings.measure("distillation"):
            distilled = distil(
                config,
                replace(self.streams.compressed, scratch=self.student),
                self._stored,
                self.entry,
                self._desired(state),
                recompute=self.recompute,
                on_epoch=self.callback.on_distillation,
            )
        with self.timings.measure("files"):
            for number, (block, tensors) in enumerate(zip(self.plan.blocks, distilled.blocks, strict=True)):
                tensors = processes.give_tensors(tensors)
                if self.run_checkpoint is not None:
                    self.run_checkpoint.replace(number, block, tensors)
                for name, parameter in block.module.named_parameters():
                    if not parameter.is_meta:
                        parameter.data = tensors[name].to(parameter.device, parameter.dtype)
            state = replace(state, records=state.records.model_copy(update={"distillation": distilled.record}))
            if self.run_checkpoint is not None:
                self.run_checkpoint.finish(state)
        self.entry.delete()
        return state

    def _desired(self, state: WalkState) -> dict[int, HiddenStates]:
        """Return what the original model's blocks gave, of those that its head and its own code look at."""
        assert state.original is not None
        taps = self.streams.taps_of(state, ORIGINAL)
        return {**taps, len(self.plan.blocks) - 1: state.original}

    def _stored(self, number: int) -> Mapping[str, Tensor]:
        """Return the tensors of a finished block."""
        if self.run_checkpoint is not None:
            return self.run_checkpoint.load(number)
        with self.model.weights.onload(self.plan.blocks[number].module, torch.device("cpu")) as onloaded:
            return onloaded.stored()
