"""Trains the block that a walk has come to: before its linears are factored, and once they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from eckart.blocks.block import Block, Group
from eckart.blocks.onload import OnloadedModule
from eckart.blocks.passes import BlockPass, HiddenStates, input_moments
from eckart.compression.callback import Callback
from eckart.compression.costs import Timings
from eckart.compression.plan import Plan
from eckart.compression.state import WalkState
from eckart.compression.walk_streams import WalkStreams
from eckart.layers import weight_matrix
from eckart.maths.moments import Moments
from eckart.maths.whitening import Whitening
from eckart.methods.preparation import PreparationRecord
from eckart.methods.preparation.weights import WeightToPrepare
from eckart.methods.refinement import RefinementRecord, Sequences
from eckart.methods.sensitivity.measurements import Measurements
from eckart.methods.training import EpochRecord, TrainingRun


@dataclass(frozen=True)
class BlockTrainings:
    """The trainings of a walk's blocks.

    Attributes:
        plan: the recipe, the blocks and the ranks.
        streams: how blocks are called.
        measurements: metrics of outputs.
        device: where float64 factorisations run.
        recompute: compute activations twice instead of holding them.
        callback: hears of epochs and of what came out.
        timings: of the walk.
    """

    plan: Plan
    streams: WalkStreams
    measurements: Measurements
    device: torch.device
    recompute: bool
    callback: Callback
    timings: Timings

    def prepare(
        self,
        state: WalkState,
        desired: HiddenStates | None,
        moments: Mapping[Group, Moments],
        block: Block,
        onloaded: OnloadedModule,
    ) -> PreparationRecord | None:
        """Draw the weights of a dense block towards their ranks, if the recipe says so; None if there are none.

        Those that came out stand in the block; the original ones are noted in ``onloaded.originals``.

        Args:
            state: in front of the block.
            desired: the original model's hidden states behind it.
            moments: of the inputs in the original model, where they are known already.
            block: that is prepared.
            onloaded: its tensors.
        """
        preparation = self.plan.recipe.preparation.training
        if preparation is None:
            return None
        assert state.original is not None
        run = self.streams.original.block_pass(state.finished)
        with self.timings.measure("preparation"):
            weights = self._weights(state.original, moments, block, run)
            if not weights:
                return None
            before = {w.name: weight_matrix(run.module.get_submodule(w.name)).detach().clone() for w in weights}
            sequences = self._sequences(state.original, state, desired)
            training = self._run(state, block, self.callback.on_preparation_epoch)
            record = preparation.prepare(run, block.path, weights, sequences, training)
        if record.kept_epoch:
            onloaded.originals.update(before)
        self.callback.on_preparation(record)
        return record

    def refine(
        self, state: WalkState, desired: HiddenStates | None, block: Block, onloaded: OnloadedModule
    ) -> RefinementRecord | None:
        """Refine a compressed block if the recipe says so, to what the original one gives.

        Args:
            state: in front of the block.
            desired: the original model's hidden states behind it.
            block: that is refined.
            onloaded: its tensors.
        """
        refinement = self.plan.recipe.refinement.training
        if refinement is None:
            return None
        assert state.compressed is not None
        training = self._run(state, block, self.callback.on_epoch)
        sequences = self._sequences(state.compressed, state, desired)
        run = self.streams.compressed.block_pass(state.finished)
        metric = self.measurements.block_metrics.get(block.path)
        with self.timings.measure("refinement"):
            record = refinement.refine(run, block.path, sequences, onloaded.dtypes, training, metric)
        self.callback.on_refinement(record)
        return record

    def _run(self, state: WalkState, block: Block, on_epoch: Callable[[str, int, EpochRecord], None]) -> TrainingRun:
        model = self.streams.model
        return TrainingRun(
            compute=model.compute,
            # Each block has an order of its own, which does not depend on where a run was resumed.
            seed=model.seed * len(self.plan.blocks) + state.finished,
            recompute=self.recompute,
            on_epoch=lambda number, epoch: on_epoch(block.path, number, epoch),
        )

    def _sequences(self, inputs: HiddenStates, state: WalkState, desired: HiddenStates | None) -> Sequences:
        assert state.original is not None
        assert desired is not None
        model = self.streams.model
        known = model.known
        return Sequences(inputs, state.original, desired, model.device, known.at_once, len(known), known.places)

    def _weights(
        self, original: HiddenStates, moments: Mapping[Group, Moments], block: Block, run: BlockPass
    ) -> list[WeightToPrepare]:
        """Return what can be prepared: weights that will be cut, but for those in experts and of several of them."""
        groups = tuple(group for group in block.groups if not group.routed and not group.parts)
        found: list[WeightToPrepare] = []
        fixed = {name.removesuffix(".weight") for name in run.fixed}
        wanted = {
            group: [ref for ref in group.linears if self._is_cut(ref.path, ref.shape) and ref.name not in fixed]
            for group in groups
        }
        looked_at = tuple(group for group in groups if wanted[group])
        if any(group not in moments for group in looked_at):
            moments = input_moments(run, looked_at, original)
        objective = self.plan.recipe.objective
        for group in looked_at:
            seen = moments[group]
            seen.check_finite(*(ref.path for ref in group.linears))
            whitening = objective.whitening(seen, group.linears[0].in_features, self.device)
            for ref in wanted[group]:
                rank = self.plan.ranks[ref.path]
                assert rank is not None
                metric = self._metric(ref.path)
                found.append(WeightToPrepare(ref.name, ref.path, rank, whitening, float(seen.tokens), metric))
        return found

    def _is_cut(self, path: str, shape: tuple[int, int]) -> bool:
        rank = self.plan.ranks[path]
        return rank is not None and rank < min(shape) and self.plan.changes(path)

    def _metric(self, path: str) -> Whitening | None:
        chosen = self.plan.recipe.objective.output_metric
        if chosen is None:
            return None
        root = chosen.root(self.measurements.metrics[path].to(self.device, torch.float64))
        assert isinstance(root, Whitening)  # in blocks only where outputs are of several runs
        return root
