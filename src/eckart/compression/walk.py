"""The walk over the blocks: the one place where a model is compressed."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from eckart.blocks.block_arguments import arguments_by_shape, capture_arguments
from eckart.blocks.discovery import Block, Group, LinearRef, find_block_list
from eckart.blocks.onload import OnloadedModule, ResidentWeights, WeightSource
from eckart.blocks.passes import (
    ArgumentsByShape,
    GroupInputs,
    HiddenStates,
    advance,
    group_inputs,
    group_moments,
    input_moments,
    output_projectors,
)
from eckart.blocks.tensor_cache import ScratchSpace
from eckart.compression.callback import Callback
from eckart.compression.distil.run import distil, put_layers
from eckart.compression.drift import Outputs, compare, order_units, original_weights, outputs_of
from eckart.compression.factorise import Components, Factoriser
from eckart.compression.plan import Plan
from eckart.compression.records import RECORDED_LENGTH, RECORDED_SAMPLES
from eckart.compression.result import CompressionResult, LayerRecord, Timings
from eckart.compression.sensitivity.measurements import Measurements
from eckart.compression.state import RunCheckpoint, WalkState
from eckart.data.calibration import Calibration
from eckart.device import compute_dtype, give_back_memory, moment_device
from eckart.errors import CalibrationError
from eckart.maths.moments import Moments
from eckart.methods.distillation import LogitDistillation
from eckart.methods.objectives import InputSource
from eckart.methods.recipe import Recipe
from eckart.methods.refinement import NoRefinement
from eckart.methods.refinement.block_training import Sequences
from eckart.methods.refinement.record import RefinementRecord


def compress_blocks(
    model: PreTrainedModel,
    recipe: Recipe,
    plan: Plan,
    calibration: Calibration | None,
    *,
    device: torch.device,
    weights: WeightSource | None = None,
    scratch: ScratchSpace | None = None,
    student: ScratchSpace | None = None,
    run_checkpoint: RunCheckpoint | None = None,
    checkpoint_activations: bool = False,
    callback: Callback | None = None,
    metrics: Mapping[str, Tensor] | None = None,
    block_metrics: Mapping[str, Tensor] | None = None,
    components: Components | None = None,
    kept: Measurements | None = None,
) -> CompressionResult:
    """Replace the linears of ``model``, block after block.

    Args:
        model: in evaluation mode; its blocks are moved to ``device`` one at a time.
        recipe: what to do.
        plan: the blocks and the ranks, from :func:`eckart.compression.plan.make_plan`.
        calibration: the tokens; may be None if the recipe looks at no data.
        device: where blocks are run and factored.
        weights: where the model's tensors are; in memory by default, and then they are replaced in place.
        scratch: where the streams live; in memory by default.
        student: where what a distillation trains lives; by default where the streams do.
        run_checkpoint: keeps the finished blocks, and knows those of an earlier run.
        checkpoint_activations: compute activations twice in a refinement instead of holding them.
        callback: is told what happens.
        metrics: second moment of each linear's output gradients, from :mod:`eckart.compression.allocate`.
        block_metrics: the same behind each block, if its refinement looks at them.
        components: of linears whose equation is solved already.
        kept: what an earlier measurement kept of the inputs of linears. No token is looked at then; for recipes whose
            objective looks at the original model only, and that train nothing.

    Raises:
        CalibrationError: the recipe needs tokens and there are none.
        NonFiniteError: a weight or an activation is NaN or infinite; names the layer.
    """
    if recipe.needs_data and calibration is None and kept is None:
        raise CalibrationError(f"Recipe {recipe.name!r} looks at activations and needs calibration text.")
    walk = _Walk(
        model=model,
        recipe=recipe,
        plan=plan,
        calibration=calibration if recipe.needs_data and kept is None else None,
        device=device,
        weights=weights or ResidentWeights(),
        scratch=scratch or ScratchSpace(),
        student=student or scratch or ScratchSpace(),
        run_checkpoint=run_checkpoint,
        checkpoint_activations=checkpoint_activations,
        callback=callback or Callback(),
        metrics=metrics or {},
        block_metrics=block_metrics or {},
        components=components,
        kept=kept,
    )
    return walk.run()


@dataclass
class _OriginalPass:
    """What a pass of the original stream through a block gave."""

    behind: HiddenStates | None = None
    moments: dict[Group, Moments] = field(default_factory=dict)
    inputs: GroupInputs = field(default_factory=lambda: GroupInputs({}, {}))
    projectors: Mapping[LinearRef, Tensor] = field(default_factory=dict)


@dataclass
class _Walk:
    """One walk: what it was told, and what it has measured."""

    model: PreTrainedModel
    recipe: Recipe
    plan: Plan
    calibration: Calibration | None
    device: torch.device
    weights: WeightSource
    scratch: ScratchSpace
    student: ScratchSpace
    run_checkpoint: RunCheckpoint | None
    checkpoint_activations: bool
    callback: Callback
    metrics: Mapping[str, Tensor]
    block_metrics: Mapping[str, Tensor]
    components: Components | None
    kept: Measurements | None
    timings: Timings = field(default_factory=Timings)

    def __post_init__(self) -> None:
        self.entry: HiddenStates | None = None  # in front of the first block, if it is needed to the end
        self.dtype: torch.dtype = self.model.dtype  # read now: it is another one while the model is lent
        self.factoriser = Factoriser(
            self.recipe, self.plan, moment_device(self.device), self.metrics, self.components, self.kept
        )

    def run(self) -> CompressionResult:
        """Walk over all blocks that are not finished yet, and distil the model if that is wanted."""
        with self.timings.measure("total"):
            state = self.run_checkpoint.resume() if self.run_checkpoint else None
            blocks, distils = self.plan.blocks, isinstance(self.recipe.distillation, LogitDistillation)
            known = 0 if state is None else state.finished
            arguments: list[ArgumentsByShape] = [{} for _ in blocks]
            first: WalkState | None = None
            if distils and (state is None or state.distillation is None):
                self.entry = self.student.cache("entry", self.dtype)
            if self.calibration is not None and (known < len(blocks) or self.entry is not None):
                arguments, first = self._enter(self.calibration)
            state = state or first or WalkState()
            while state.finished < len(blocks):
                state = self._advance(state, blocks[state.finished], arguments[state.finished])
                self.callback.on_block(state.finished)
            if self.entry is not None and state.distillation is None:
                state = self._distil(state, arguments, known)
        return CompressionResult(
            recipe=self.recipe,
            requested_keep=self.plan.keep,
            calibration=self.calibration.record if self.calibration else None,
            layers=list(state.layers),
            refinements=list(state.refinements),
            distillation=state.distillation,
            blocks=list(state.blocks),
            spectra=dict(state.spectra),
            parameters=self.plan.parameters,
            timings=self.timings,
        )

    def _enter(self, calibration: Calibration) -> tuple[list[ArgumentsByShape], WalkState]:
        """Return how each block is called, and the position in front of block 0."""
        _, blocks = find_block_list(self.model)
        samples, length = calibration.tokens.shape
        sizes = {len(batch) for batch in calibration.batches()}
        for trained in (self.recipe.refinement, self.recipe.distillation):
            sizes |= trained.batch_sizes(samples, max(sizes))
        skip = (*blocks[1:], self.model.get_output_embeddings())
        few = calibration.tokens[:RECORDED_SAMPLES, :RECORDED_LENGTH]
        with self.timings.measure("statistics"), self.weights.onload(self.model, self.device, skip):
            arguments = arguments_by_shape(self.model, blocks, sizes, length, self.device)
            stream = self._stream("original", 0)
            for batch in calibration.batches():
                hidden = capture_arguments(self.model, blocks, batch.to(self.device))[0]
                stream.append(hidden)
                if self.entry is not None:
                    self.entry.append(hidden)
            recorded = self._stream("recorded", 0)
            calls_of_few = arguments_by_shape(self.model, blocks, [len(few)], few.shape[1], self.device)
            for _ in ("original", "compressed"):
                recorded.append(capture_arguments(self.model, blocks, few.to(self.device))[0])
        refined, streams = self.recipe.refinement.needs_data, self.recipe.objective.streams
        distilled = self.recipe.distillation.needs_data
        both: list[ArgumentsByShape] = [
            {**of_few, **of_all} for of_few, of_all in zip(calls_of_few, arguments, strict=True)
        ]
        return both, WalkState(
            original=stream if refined or distilled or streams in (InputSource.ORIGINAL, InputSource.BOTH) else None,
            compressed=stream if refined or streams in (InputSource.COMPRESSED, InputSource.BOTH) else None,
            recorded=recorded,
        )

    def _advance(self, state: WalkState, block: Block, arguments: ArgumentsByShape) -> WalkState:
        """Compress one block and return the position behind it."""
        with ExitStack() as stack:
            with self.timings.measure("files"):
                onloaded = stack.enter_context(self.weights.onload(block.module, self.device))
            behind = self._compress(state, block, arguments, onloaded)
            with self.timings.measure("files"):
                if self.run_checkpoint is not None:
                    self.run_checkpoint.save(behind, block, onloaded.stored())
        for stream in state.streams:
            stream.delete()
        give_back_memory(self.device)
        return behind

    def _compress(
        self, state: WalkState, block: Block, arguments: ArgumentsByShape, onloaded: OnloadedModule
    ) -> WalkState:
        """Factor the linears of a block group by group, refine it, and move the streams behind it."""
        outputs = None
        if state.recorded is not None:
            with self.timings.measure("records"), original_weights(onloaded):
                outputs = outputs_of(block, arguments, state.recorded[0], self.device)
        with self.timings.measure("statistics"):
            seen = self._observe_original(state, block, arguments)
        layers: list[LayerRecord] = []
        for group in block.groups:
            with self.timings.measure("statistics"):
                moments = self._moments(state, block, group, arguments, seen)
            with self.timings.measure("factorisation"):
                records = self.factoriser.replace_group(
                    onloaded, group, moments, seen.inputs.output_energies, seen.projectors
                )
                del moments
                give_back_memory(self.device)
            layers += records
            for layer in records:
                self.callback.on_layer(layer)
        seen.inputs.delete_residuals()
        # Before the refinement, which may train what is between the linears so that units are no longer alike.
        layers, outputs = order_units(block, layers, outputs, self.recipe.structure)
        behind = replace(state, finished=state.finished + 1, layers=(*state.layers, *layers), original=seen.behind)
        refinements = (*state.refinements, *self._refine(state, behind, block, arguments, onloaded))
        compressed = None
        with self.timings.measure("statistics"):
            if state.compressed is not None:
                compressed = self._stream("compressed", behind.finished)
                advance(block.module, arguments, state.compressed, self.device, compressed)
        with self.timings.measure("records"):
            behind = self._record(state, behind, block, arguments, outputs)
        return replace(behind, compressed=compressed, refinements=refinements)

    def _record(
        self, before: WalkState, behind: WalkState, block: Block, arguments: ArgumentsByShape, original: Outputs | None
    ) -> WalkState:
        """Note down the spectra of a block and, from what the original block gave on the few tokens, its errors."""
        spectra = {
            ref.path: self.factoriser.spectra[ref.path] for ref in block.linears if ref.path in self.factoriser.spectra
        }
        behind = replace(behind, spectra={**before.spectra, **spectra})
        if original is None or before.recorded is None:
            return behind
        compressed = outputs_of(block, arguments, before.recorded[1], self.device)
        recorded = self._stream("recorded", behind.finished)
        for outputs in (original, compressed):
            recorded.append(outputs.hidden)
        return replace(behind, recorded=recorded, blocks=(*before.blocks, compare(block, original, compressed)))

    def _observe_original(self, state: WalkState, block: Block, arguments: ArgumentsByShape) -> _OriginalPass:
        """Run the block as it is in the original model over that model's stream, if anybody looks at it."""
        seen = _OriginalPass()
        if state.original is None:
            return seen
        seen.behind = self._stream("original", state.finished + 1)
        passing = (block.module, block.groups, arguments, state.original, self.device, seen.behind)
        if self.recipe.objective.streams is InputSource.ORIGINAL:
            seen.moments = input_moments(*passing)
            if self.recipe.objective.observes_outputs:
                ranks = {ref: rank for ref in block.linears if (rank := self.plan.ranks[ref.path])}
                seen.projectors = output_projectors(block.module, ranks, arguments, state.original, self.device)
        elif self.recipe.objective.streams is InputSource.BOTH:
            seen.inputs = group_inputs(*passing, self.scratch.cache)
        else:
            advance(block.module, arguments, state.original, self.device, seen.behind)
        return seen

    def _moments(
        self, state: WalkState, block: Block, group: Group, arguments: ArgumentsByShape, seen: _OriginalPass
    ) -> Moments | None:
        """Return the moments of a group's input that the objective asks for."""
        if self.recipe.objective.streams not in (InputSource.COMPRESSED, InputSource.BOTH):
            return seen.moments.pop(group, None)
        assert state.compressed is not None
        originals = seen.inputs.inputs.get(group)
        moments = group_moments(
            block.module, group, arguments, state.compressed, self.device, originals, seen.inputs.residuals
        )
        if originals is not None:
            originals.delete()
        return moments

    def _refine(
        self, before: WalkState, behind: WalkState, block: Block, arguments: ArgumentsByShape, onloaded: OnloadedModule
    ) -> list[RefinementRecord]:
        """Refine a block if the recipe says so, and if anything was lost so far."""
        refinement = self.recipe.refinement
        if isinstance(refinement, NoRefinement) or all(layer.rank is None for layer in behind.layers):
            return []
        assert self.calibration is not None
        assert before.original is not None
        assert before.compressed is not None
        assert behind.original is not None
        with self.timings.measure("refinement"):
            record = refinement.refine(
                block.module,
                block.path,
                arguments,
                Sequences(before.compressed, before.original, behind.original, self.device),
                stored=onloaded.dtypes,
                compute=compute_dtype(self.dtype, self.device),
                # Each block has an order of its own, which does not depend on where a run was resumed.
                seed=self.calibration.seed * len(self.plan.blocks) + before.finished,
                metric=self.block_metrics.get(block.path),
                checkpoint_activations=self.checkpoint_activations,
                on_epoch=lambda number, epoch: self.callback.on_epoch(block.path, number, epoch),
            )
        self.callback.on_refinement(record)
        return [record]

    def _distil(self, state: WalkState, arguments: list[ArgumentsByShape], known: int) -> WalkState:
        """Distil the finished model, and put what comes of it in the place of what was there.

        Args:
            position: behind the last block.
            arguments: how each block is called.
            known: blocks that an earlier run finished, whose layers are not in place here.
        """
        assert isinstance(self.recipe.distillation, LogitDistillation)
        assert self.calibration is not None
        assert self.entry is not None
        assert state.original is not None
        layers = {layer.path: layer for layer in state.layers}
        for block in self.plan.blocks[:known]:
            put_layers(block, layers, self.recipe.layout)
        with self.timings.measure("distillation"):
            distilled = distil(
                self.recipe.distillation,
                self.model,
                self.plan.blocks,
                self._stored,
                arguments,
                self.entry,
                state.original,
                self.calibration,
                weights=self.weights,
                device=self.device,
                scratch=self.student,
                recompute=self.checkpoint_activations,
                on_epoch=self.callback.on_distillation,
            )
        with self.timings.measure("files"):
            for number, (block, tensors) in enumerate(zip(self.plan.blocks, distilled.blocks, strict=True)):
                if self.run_checkpoint is not None:
                    self.run_checkpoint.replace(number, block, tensors)
                for name, parameter in block.module.named_parameters():
                    if not parameter.is_meta:
                        parameter.data = tensors[name].to(parameter.device, parameter.dtype)
            state = replace(state, distillation=distilled.record)
            if self.run_checkpoint is not None:
                self.run_checkpoint.finish(state)
        self.entry.delete()
        return state

    def _stored(self, number: int) -> Mapping[str, Tensor]:
        """Return the tensors of a finished block."""
        if self.run_checkpoint is not None:
            return self.run_checkpoint.load(number)
        with self.weights.onload(self.plan.blocks[number].module, torch.device("cpu")) as onloaded:
            return onloaded.stored()

    def _stream(self, name: str, number: int) -> HiddenStates:
        """Return an empty stream for in front of block ``number``."""
        return self.scratch.cache(f"{name}-{number:05d}", self.dtype)
