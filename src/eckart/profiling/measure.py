"""Measures the evidence on every linear: a walk through the original model, and back where gradients are asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional

from eckart.allocation import Evidence, LinearEvidence
from eckart.blocks import Block, Group, Target
from eckart.device import give_back_memory, moment_device
from eckart.errors import NonFiniteError
from eckart.layers import Fit, weight_matrix
from eckart.lowrank import Solution, Whitening, solve
from eckart.moments import Moments
from eckart.plan import shapes_of
from eckart.profiling.original import OriginalModel
from eckart.profiling.request import Labels
from eckart.profiling.request import Request as Request
from eckart.profiling.request import request_of as request_of
from eckart.profiling.spooled import SpooledPairs
from eckart.profiling.spooled import SpooledTensors as SpooledTensors
from eckart.spool import Spool
from eckart.statistics import Stream, input_moments

Progress = Callable[[int, int], None]


@dataclass
class Profile:
    """What was measured.

    Attributes:
        linears: the evidence on each, in order of execution.
        metrics: the second moment (m, m) of each linear's output gradients, float32, by path; empty if the objective
            has no output metric.
        solutions: the low-rank approximations of each linear, by path, if they were asked for: basis and dual, (m, p)
            float32.
        whitenings: what the objective makes of the inputs of each linear, by path, if it was asked for: the root (n, k)
            of their second moment and its inverse, float64.
        block_metrics: the second moment (d, d) of the gradients behind each block, float32, by its path; empty if no
            metric was asked for.
        means: of those inputs, (n,) float64, by path, if they were asked for and the objective looks at data.
    """

    linears: tuple[LinearEvidence, ...]
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
    solutions: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    whitenings: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    means: Mapping[str, Tensor] = field(default_factory=dict)
    block_metrics: Mapping[str, Tensor] = field(default_factory=dict)

    def components(self, path: str) -> tuple[Tensor, Tensor, Tensor]:
        """Return basis and dual (m, p) of a linear, and its singular values (p,), if bases were kept."""
        linear = next(linear for linear in self.linears if linear.path == path)
        assert linear.energy is not None
        return *self.solutions[path], (linear.energy * linear.tokens).sqrt()


def measure(original: OriginalModel, request: Request, progress: Progress) -> Profile:
    """Return what is asked for.

    Args:
        original: the model.
        request: what to measure.
        progress: is called with (blocks done, blocks to do).

    Raises:
        NonFiniteError: a weight, an activation or a gradient is NaN or infinite.
    """
    return measure_all(original, [request], progress)[0]


def measure_all(
    original: OriginalModel, requests: Sequence[Request], progress: Progress, *, first: int = 0
) -> list[Profile]:
    """Return what each request asks for, from one walk: streams, moments and gradients are shared.

    Args:
        original: as for :func:`measure`, like ``progress``.
        requests: what to measure; different ones are best merged before (:func:`eckart.profiling.request.merge`).
        progress: is called.
        first: number of the first request, by which the files of what is kept are told from those of earlier ones.

    Raises:
        NonFiniteError: see :func:`measure`; of any of the requests.
    """
    solvers = [_Solver(original, request, number) for number, request in enumerate(requests, first)]
    return _Measurement(original, solvers, progress).run()


@dataclass
class _BlockSums:
    """Sums over tokens for the linears of one block.

    Attributes:
        moments: of the inputs of each group.
        gradients: by the labels of the summed loss and by linear, (m, n) or (m, m) float64: with ``d`` the loss's
            gradient at the output, ``sum d x^T`` for next tokens, and ``sum d d^T`` for a metric.
        counts: predictions in each of those losses.
        weighted: by the labels of a metric that weighs tokens and by linear, the second moment of its inputs with those
            weights, of the size of an unweighted sum, (n, n) float64.
        behind: by the labels of a metric, ``sum d d^T`` with d the loss's gradient behind the block, (d, d) float64.
        similarity: mean cosine of the hidden states in front of the block and behind it; None if it is not asked for.
    """

    moments: dict[Group, Moments]
    gradients: dict[Labels, dict[Target, Tensor]]
    counts: dict[Labels, int]
    weighted: dict[Labels, dict[Target, Tensor]]
    behind: dict[Labels, Tensor]
    similarity: float | None


class _Measurement:
    """The walk: what does not depend on what a component is."""

    def __init__(self, original: OriginalModel, solvers: Sequence[_Solver], progress: Progress) -> None:
        self.original, self.solvers, self.progress = original, solvers, progress
        self.requests = [solver.request for solver in solvers]
        self.device = moment_device(original.device)
        found = [labels for r in self.requests for labels in (r.next_labels, r.metric_labels) if labels is not None]
        self.labels = list(dict.fromkeys(found))

    def run(self) -> list[Profile]:
        blocks = self.original.blocks
        streams = self.original.forward() if any(request.looks_at_data for request in self.requests) else []
        # The tail of the model is run once for each kind of label.
        gradients: dict[Labels, Stream] = {}
        counts: dict[Labels, int] = {}
        for labels in self.labels:
            gradients[labels], counts[labels] = self.original.loss_gradient(
                streams[-1], labels.metric, labels.samples, name=self._name(labels)
            )
        for index in reversed(range(len(blocks))):
            block = blocks[index]
            with self.original.weights.lend(block.module, self.original.device):
                sums = self._sums(index, streams, gradients, counts)
                for group in block.groups:
                    moments = sums.moments.pop(group, None)
                    for solver in self.solvers:
                        solver.add(block, group, moments, sums)
                    give_back_memory(self.original.device)
                for solver in self.solvers:
                    solver.add_block(block, sums)
            if streams:
                streams.pop().delete()
            self.progress(len(blocks) - index, len(blocks))
        for stream in (*streams, *gradients.values()):
            stream.delete()
        return [solver.profile() for solver in self.solvers]

    def _sums(
        self, index: int, streams: Sequence[Stream], gradients: dict[Labels, Stream], counts: dict[Labels, int]
    ) -> _BlockSums:
        """Sum over the tokens at the linears of a block, and carry the gradients to the front of it."""
        block = self.original.blocks[index]
        moments: dict[Group, Moments] = {}
        if any(request.needs_moments for request in self.requests):
            calls = self.original.calls[index]
            moments = input_moments(block.module, block.groups, calls, streams[index], self.original.device)
        behind = {labels: self._second_moment(gradients[labels]) for labels in self.labels if labels.metric is not None}
        weighted: dict[Labels, dict[Target, Tensor]] = {}
        sums = {labels: self._backward(index, streams[index], gradients, labels, weighted) for labels in self.labels}
        similarity = None
        if any(Evidence.SIMILARITY in request.evidence for request in self.requests):
            similarity = mean_cosine(streams[index], streams[index + 1])
        return _BlockSums(moments, sums, counts, weighted, behind, similarity)

    def _second_moment(self, stream: Stream) -> Tensor:
        total = torch.zeros(())
        for batch in stream:
            rows = batch.flatten(0, -2).to(self.original.device)
            total = total.to(self.device) + (rows.T @ rows).to(self.device, torch.float64)
        return total

    def _backward(
        self,
        index: int,
        stream: Stream,
        gradients: dict[Labels, Stream],
        labels: Labels,
        weighted: dict[Labels, dict[Target, Tensor]],
    ) -> dict[Target, Tensor]:
        sums: dict[Target, Tensor] = {}
        moments: dict[Target, Tensor] = {}
        weights: dict[Target, float] = {}
        weighs = labels.metric is not None and labels.metric.weighs_tokens

        def add(target: Target, inputs: Tensor, at_output: Tensor) -> None:
            at_output, inputs = at_output.float(), inputs.float()
            other = inputs if labels.metric is None else at_output
            _add_to(sums, target, (at_output.T @ other).to(self.device, torch.float64))
            if weighs:
                sizes = at_output.norm(dim=1, keepdim=True)
                _add_to(moments, target, ((inputs * sizes).T @ inputs).to(self.device, torch.float64))
                weights[target] = weights.get(target, 0.0) + float(sizes.sum())

        name = self._name(labels)
        gradients[labels] = self.original.backward(index, stream, gradients[labels], name, add)
        tokens = self.original.tokens.numel()
        weighted[labels] = {t: moments[t] * (tokens / weights[t]) for t in moments if weights[t] > 0}
        return sums

    def _name(self, labels: Labels) -> str:
        return f"{self.labels.index(labels)}"


def _add_to(sums: dict[Target, Tensor], target: Target, product: Tensor) -> None:
    sums[target] = sums[target] + product if target in sums else product


class _Solver:
    """What one request makes of the sums.

    Args:
        original: the model.
        request: what is asked for.
        number: tells it from other requests.
    """

    def __init__(self, original: OriginalModel, request: Request, number: int) -> None:
        self.original, self.request = original, request
        self.objective, self.structure, self.wants = request.objective, request.structure, request.evidence
        self.device = moment_device(original.device)
        self.found: dict[str, LinearEvidence] = {}

        def spool(name: str, dtype: torch.dtype) -> Spool:
            return original.workspace.spool(f"{name}-{number}", dtype)

        self.metrics = None if self.objective.output_metric is None else SpooledTensors(spool("metric", torch.float32))
        self.block_metrics: dict[str, Tensor] = {}
        self.bases = self.whitenings = self.means = None
        if request.keep_bases:
            self.bases = SpooledPairs(spool("basis", torch.float32), spool("dual", torch.float32))
        if request.keep_inputs:
            self.whitenings = SpooledPairs(spool("root", torch.float64), spool("inverse", torch.float64))
            self.means = SpooledTensors(spool("mean", torch.float64))

    def profile(self) -> Profile:
        """Return what was added."""
        linears = tuple(replace(self.found[shape.path], group=shape.group) for shape in shapes_of(self.original.blocks))
        return Profile(
            linears,
            self.metrics or {},
            self.bases or {},
            self.whitenings or {},
            self.means or {},
            self.block_metrics,
        )

    def add(self, block: Block, group: Group, moments: Moments | None, sums: _BlockSums) -> None:
        """Add the linears of a group of a block, which is lent.

        Raises:
            NonFiniteError: a weight or an input is NaN or infinite.
        """
        if moments is not None and not moments.is_finite():
            paths = ", ".join(target.path for target in group.targets)
            raise NonFiniteError(f"The input of {paths} is NaN or infinite on the calibration tokens.")
        whitening = None
        if self.request.needs_spectrum or self.request.keep_inputs:
            inputs = moments if self.objective.needs_data else None
            whitening = self.objective.whitening(inputs, group.targets[0].in_features, self.device)
            self._keep_inputs(group, inputs, whitening)
        for target in group.targets:
            self.found[target.path] = self._linear(block, target, moments, whitening, sums)

    def add_block(self, block: Block, sums: _BlockSums) -> None:
        """Add what was seen behind a block."""
        labels = self.request.metric_labels
        if labels is not None:
            self.block_metrics[block.path] = (sums.behind[labels] / sums.counts[labels]).float().cpu()

    def _keep_inputs(self, group: Group, moments: Moments | None, whitening: Whitening) -> None:
        first, *others = [target.path for target in group.targets]
        if self.whitenings is not None:
            self.whitenings.add(first, whitening.root, whitening.inverse)
            for path in others:
                self.whitenings.add_name(path, first)
        if self.means is not None and moments is not None:
            self.means.add(first, moments.mean)
            for path in others:
                self.means.add_name(path, first)

    def _linear(
        self, block: Block, target: Target, moments: Moments | None, whitening: Whitening | None, sums: _BlockSums
    ) -> LinearEvidence:
        weight = weight_matrix(block.module.get_submodule(target.name)).detach().to(self.device, torch.float64)
        if not torch.isfinite(weight).all():
            raise NonFiniteError(f"The weight of {target.path} is NaN or infinite. The model is not usable as it is.")
        evidence = LinearEvidence(
            target.path, target.shape, 0, target.name, similarity=sums.similarity, has_bias=target.has_bias
        )
        second = self._second(target, sums)
        if self.metrics is not None:
            self.metrics.add(target.path, second)
        if whitening is None or not self.request.needs_spectrum:
            return evidence
        weighted = self._weighted(target, sums)
        if weighted is not None and moments is not None:
            whitening = self.objective.whitening(replace(moments, second=weighted), target.in_features, self.device)
        root = None if self.objective.output_metric is None else self.metric_root(second)
        remainder = self.structure.remainder(weight, whitening)
        solution = solve(whitening, None, remainder, root)
        tokens = moments.tokens if moments is not None and self.objective.needs_data else 1
        evidence = self._of_solution(evidence, solution, remainder, tokens, target, second, sums)
        if self.structure.adds_to_base:
            whole = Fit(weight, whitening, root).loss(torch.zeros_like(weight))
            evidence = replace(evidence, output_energy=whole / max(tokens, 1))
        if self.bases is not None:
            self.bases.add(target.path, solution.basis, solution.dual)
        return evidence

    def metric_root(self, second: Tensor) -> Whitening:
        """Return the root of the output metric."""
        assert self.request.metric is not None
        return self.request.metric.root(second)

    def _weighted(self, target: Target, sums: _BlockSums) -> Tensor | None:
        """Return the second moment of a linear's inputs with weights, if the objective's metric has some."""
        labels = self.request.metric_labels
        if labels is None or self.objective.output_metric is None:
            return None
        return sums.weighted[labels].get(target)

    def _second(self, target: Target, sums: _BlockSums) -> Tensor:
        """Return the second moment of a linear's output gradients a prediction; zeros if there is none."""
        labels = self.request.metric_labels
        total = None if labels is None else sums.gradients[labels].get(target)
        if labels is None or total is None:
            return torch.zeros(target.out_features, target.out_features, dtype=torch.float64, device=self.device)
        return total / sums.counts[labels]

    def _of_solution(
        self,
        evidence: LinearEvidence,
        solution: Solution,
        weight: Tensor,
        tokens: int,
        target: Target,
        second: Tensor,
        sums: _BlockSums,
    ) -> LinearEvidence:
        """Return the evidence with what follows from a linear's components."""
        energy = solution.singular_values.square() / max(tokens, 1)
        first_order = curvature = None
        labels = self.request.next_labels
        if labels is not None:
            gradient = sums.gradients[labels].get(target)
            first_order = first_order_changes(solution, weight, gradient) / sums.counts[labels]
        if Evidence.CURVATURE in self.wants:
            curvature = energy / 2
            if self.objective.output_metric is None:
                curvature = curvature * ((second @ solution.basis) * solution.basis).sum(dim=0)
        return replace(
            evidence,
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


def mean_cosine(front: Stream, behind: Stream) -> float:
    """Return the mean cosine of the hidden states of all tokens in front of a block and behind it."""
    total, count = 0.0, 0
    for before, after in zip(front, behind, strict=True):
        cosines = functional.cosine_similarity(before.float(), after.float(), dim=-1)
        total, count = total + float(cosines.sum()), count + cosines.numel()
    return total / count
