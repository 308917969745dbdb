"""What one request makes of the sums over tokens that a walk gives: components of weights, and statistics."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from eckart import processes
from eckart.blocks.block import Block, Group, LinearRef
from eckart.blocks.blockwise_model import BlockwiseModel
from eckart.blocks.cached_tensors import CachedPairs, CachedTensors
from eckart.blocks.tensor_cache import TensorCache
from eckart.device import moment_device
from eckart.errors import NonFiniteError
from eckart.layers import weight_matrix
from eckart.maths.lowrank import Solution, solve
from eckart.maths.moments import Moments
from eckart.maths.shared_basis import gained
from eckart.maths.whitening import OutputRoot, Whitening, blockwise
from eckart.methods.sensitivity.kept_moments import KeptMoments
from eckart.methods.sensitivity.layer_statistics import LayerStatistics, Needs, shapes_of
from eckart.methods.sensitivity.measurements import Measurements
from eckart.methods.sensitivity.request import Labels, Request
from eckart.methods.structure.fitting import Fit


@dataclass
class BlockSums:
    """Sums over tokens for the linears of one block.

    Attributes:
        moments: of the inputs of each group.
        gradients: by the labels of the summed loss and by linear, (m, n) or (m, m) float64: with ``d`` the loss's
            gradient at the output, ``sum d x^T`` for next tokens, and ``sum d d^T`` for a metric; for one of several
            runs (runs, m / runs, m / runs), that of the outputs of each.
        counts: predictions in each of those losses.
        weighted: by the labels of a metric that weighs tokens and by linear, the second moment of its inputs with those
            weights, of the size of an unweighted sum, (n, n) float64.
        behind: by the labels of a metric, ``sum d d^T`` with d the loss's gradient behind the block, (d, d) float64.
        rows: by the labels of a metric that weighs tokens and by linear, how many inputs those are sums over.
        similarity: mean cosine of the hidden states in front of the block and behind it; None if it is not asked for.
    """

    moments: dict[Group, Moments]
    gradients: dict[Labels, dict[LinearRef, Tensor]]
    counts: dict[Labels, int]
    weighted: dict[Labels, dict[LinearRef, Tensor]]
    behind: dict[Labels, Tensor]
    rows: dict[Labels, dict[LinearRef, int]]
    similarity: float | None


class Solver:
    """What one request makes of the sums.

    Args:
        original: the model.
        request: what is asked for.
        number: tells it from other requests.
    """

    def __init__(self, original: BlockwiseModel, request: Request, number: int) -> None:
        self.original, self.request = original, request
        self.objective, self.structure, self.wants = request.objective, request.structure, request.needs
        self.device = moment_device(original.device)
        self.found: dict[str, LayerStatistics] = {}

        def cache(name: str, dtype: torch.dtype) -> TensorCache:
            return original.scratch.cache(f"{name}-{number}", dtype)

        kept = self.objective.output_metric is not None or request.keep_metrics
        self.metrics = CachedTensors(cache("metric", torch.float32)) if kept else None
        self.block_metrics: dict[str, Tensor] = {}
        self.bases = self.whitenings = self.means = self.kept = None
        if request.keep_bases:
            self.bases = CachedPairs(cache("basis", torch.float32), cache("dual", torch.float32))
        if request.keep_inputs:
            self.whitenings = CachedPairs(cache("root", torch.float64), cache("inverse", torch.float64))
            self.means = CachedTensors(cache("mean", torch.float64))
        if request.keep_moments:
            self.kept = KeptMoments(cache("moments", torch.float32))

    def measurements(self) -> Measurements:
        """Return what was added."""
        shapes = shapes_of(self.original.blocks)
        linears = tuple(
            replace(self.found[shape.path], group=shape.group, part=shape.part, block=shape.block) for shape in shapes
        )
        return Measurements(
            linears,
            self.metrics or {},
            self.bases or {},
            self.whitenings or {},
            self.means or {},
            self.block_metrics,
            moments=self.kept or {},
        )

    def add(
        self, block: Block, group: Group, moments: Moments | None, sums: BlockSums, own: Collection[LinearRef]
    ) -> None:
        """Add the linears of a group of a block, which is onloaded.

        Args:
            block: the block.
            group: one of its groups.
            moments: of the inputs of the group; None if nobody asks for them.
            sums: over the tokens at the linears of the block.
            own: the linears whose components this process finds; it learns of the others by :meth:`share`.

        Raises:
            NonFiniteError: a weight or an input is NaN or infinite.
        """
        if moments is not None:
            moments.check_finite(*(ref.path for ref in group.linears))
            if self.kept is not None:
                self.kept.add(group.linears[0].path, moments)
        whitening, weighs = None, self.request.weighs_tokens
        mine = [ref for ref in group.linears if ref in own]
        if self.request.keep_inputs or (self.request.needs_spectrum and not weighs and mine):
            inputs = moments if self.objective.needs_data else None
            whitening = self.objective.whitening(inputs, group.linears[0].in_features, self.device)
            self._keep_inputs(group, inputs, whitening)
        if self.metrics is not None:
            for ref in group.linears:
                self.metrics.add(ref.path, self._second(ref, sums))
        for ref in mine:
            self.found[ref.path] = self._linear(block, ref, moments, whitening, sums)

    def share(self, owners: Mapping[LinearRef, int]) -> None:
        """Let all processes know what each has found of the linears of a block that it owns.

        Args:
            owners: which process that is, by linear.
        """
        if processes.size() == 1:
            return
        for ref, owner in owners.items():
            mine = owner == processes.rank()
            held = self.found[ref.path].tensors() if mine else {}
            if mine and self.bases is not None and self.request.needs_spectrum:
                held["basis"], held["dual"] = self.bases[ref.path]
            known = processes.give(self.found[ref.path].numbers() if mine else None, owner)
            tensors = processes.give_tensors(held, owner)
            if mine:
                continue
            if "basis" in tensors:
                assert self.bases is not None
                self.bases.add(ref.path, tensors.pop("basis"), tensors.pop("dual"))
            fields: dict[str, Any] = {**known, **tensors}
            self.found[ref.path] = replace(LayerStatistics(ref.path, ref.shape, 0, ref.name), **fields)

    def add_block(self, block: Block, sums: BlockSums) -> None:
        """Add what was seen behind a block."""
        labels = self.request.metric_labels
        if labels is not None:
            self.block_metrics[block.path] = (sums.behind[labels] / sums.counts[labels]).float().cpu()

    def _keep_inputs(self, group: Group, moments: Moments | None, whitening: Whitening) -> None:
        first, *others = [ref.path for ref in group.linears]
        if self.whitenings is not None:
            self.whitenings.add(first, whitening.root, whitening.inverse)
            for path in others:
                self.whitenings.add_name(path, first)
        if self.means is not None and moments is not None:
            self.means.add(first, moments.mean)
            for path in others:
                self.means.add_name(path, first)

    def _linear(
        self, block: Block, ref: LinearRef, moments: Moments | None, whitening: Whitening | None, sums: BlockSums
    ) -> LayerStatistics:
        weight = weight_matrix(block.module.get_submodule(ref.name)).detach().to(self.device, torch.float64)
        if not torch.isfinite(weight.sum()):
            raise NonFiniteError(f"The weight of {ref.path} is NaN or infinite. The model is not usable as it is.")
        needs = LayerStatistics(ref.path, ref.shape, 0, ref.name, similarity=sums.similarity, has_bias=ref.has_bias)
        if not self.request.needs_spectrum:
            return needs
        second = self._second(ref, sums)
        if self.request.weighs_tokens:
            moments = self._weighted(ref, sums)
            whitening = self.objective.whitening(moments, ref.in_features, self.device)
        assert whitening is not None
        root = None if self.objective.output_metric is None else self.metric_root(second)
        remainder = self.structure.fitter.remainder(weight, whitening)
        solution = solve(whitening, None, remainder, root)
        tokens = moments.tokens if moments is not None and self.objective.needs_data else 1
        energy = solution.singular_values.square() / max(tokens, 1)
        if moments is not None and moments.runs and self.objective.needs_data:
            energy = self._energy_of_runs(solution, remainder, moments, root)
        needs = self._of_solution(needs, solution, remainder, tokens, energy, ref, second, sums)
        if self.structure.adds_to_base:
            whole = Fit(weight, whitening, root).loss(torch.zeros_like(weight))
            needs = replace(needs, output_energy=whole / max(tokens, 1))
        if self.bases is not None:
            self.bases.add(ref.path, solution.basis, solution.dual)
        return needs

    def _energy_of_runs(
        self, solution: Solution, weight: Tensor, moments: Moments, metric: OutputRoot | None
    ) -> Tensor:
        """Return what each component carries where each run has its own tokens, and its own factor beside the basis."""
        basis = solution.dual.T @ weight
        seen = weight if metric is None else blockwise(metric.root.mT, weight)
        total = torch.zeros_like(solution.singular_values)
        for part, run in zip(seen.chunk(len(moments.runs)), moments.runs, strict=True):
            if run.tokens:
                root = self.objective.whitening(run, weight.shape[1], self.device).root
                total += gained(basis, part, root) / run.tokens
        return total

    def metric_root(self, second: Tensor) -> OutputRoot:
        """Return the root of the output metric."""
        assert self.request.metric is not None
        return self.request.metric.root(second)

    def _weighted(self, ref: LinearRef, sums: BlockSums) -> Moments:
        """Return the moments of a linear's inputs with the weights of the objective's metric; none if all are zero."""
        labels = self.request.metric_labels
        assert labels is not None
        moments = Moments.zeros(ref.in_features, paired=False, device=self.device)
        moments.tokens = sums.rows[labels].get(ref, 0)
        moments.second_moment = sums.weighted[labels].get(ref, moments.second_moment)
        moments.check_finite(ref.path)
        return moments

    def _second(self, ref: LinearRef, sums: BlockSums) -> Tensor:
        """Return the second moment of a linear's output gradients a prediction; zeros if there is none."""
        labels = self.request.metric_labels
        total = None if labels is None else sums.gradients[labels].get(ref)
        if labels is None or total is None:
            size = ref.out_features // ref.runs
            shape = (size, size) if ref.runs == 1 else (ref.runs, size, size)
            return torch.zeros(shape, dtype=torch.float64, device=self.device)
        return total / sums.counts[labels]

    def _of_solution(
        self,
        needs: LayerStatistics,
        solution: Solution,
        weight: Tensor,
        tokens: float,
        energy: Tensor,
        ref: LinearRef,
        second: Tensor,
        sums: BlockSums,
    ) -> LayerStatistics:
        """Return the statistics with what follows from a linear's components."""
        first_order = curvature = None
        labels = self.request.next_labels
        if labels is not None:
            gradient = sums.gradients[labels].get(ref)
            first_order = first_order_changes(solution, weight, gradient) / sums.counts[labels]
        if Needs.CURVATURE in self.wants:
            curvature = energy / 2
            if self.objective.output_metric is None:
                curvature = curvature * (blockwise(second, solution.basis) * solution.basis).sum(dim=0)
        return replace(
            needs,
            energy=energy.cpu(),
            tokens=tokens,
            first_order=None if first_order is None else first_order.cpu(),
            curvature=None if curvature is None else curvature.cpu(),
        )


def first_order_changes(solution: Solution, weight: Tensor, gradient: Tensor | None) -> Tensor:
    """Return the first-order change of the loss if each component is removed alone, (p,) float64.

    Component i of ``W' = basis dual^T W`` is ``basis_i dual_i^T W``, so that its removal changes the loss by
    ``- basis_i^T G W^T dual_i``. For an input-aware solution that is ZS-SVD's ``- s_i u_i^T G S^-T v_i`` without
    the inverse.

    Args:
        solution: with the basis and the dual, (m, p).
        weight: ``W``, (m, n).
        gradient: ``G``, of the loss at the weight, (m, n); None if no gradient reaches the linear.
    """
    if gradient is None:
        return torch.zeros_like(solution.singular_values)
    return -((gradient.T @ solution.basis) * (weight.T @ solution.dual)).sum(dim=0)
