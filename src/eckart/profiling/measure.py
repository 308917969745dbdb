"""Measures the evidence on every linear: a walk through the original model, and back where gradients are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional

from eckart.allocation import Curvature, Evidence, LinearEvidence, ZeroSum
from eckart.blocks import Block, Group, Target
from eckart.device import give_back_memory, moment_device
from eckart.errors import NonFiniteError
from eckart.layers import Fit, weight_matrix
from eckart.lowrank import Solution, Whitening, solve
from eckart.metric import Fisher
from eckart.moments import Moments
from eckart.objectives import Objective
from eckart.plan import shapes_of
from eckart.profiling.original import OriginalModel
from eckart.recipe import Recipe
from eckart.spool import Spool
from eckart.statistics import Stream, input_moments
from eckart.structure import Structure, TwoFactor

Progress = Callable[[int, int], None]


@dataclass
class Profile:
    """What was measured.

    Attributes:
        linears: the evidence on each, in order of execution.
        metrics: the second moment (m, m) of each linear's output gradients, float32, by path; empty if the objective
            has no output metric.
        solutions: the low-rank approximations of each linear, by path, if they were asked for: basis and dual, (m, p).
    """

    linears: tuple[LinearEvidence, ...]
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
    solutions: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)


class SpooledTensors(Mapping[str, Tensor]):
    """Tensors by name that lie in a spool."""

    def __init__(self, spool: Spool) -> None:
        self._spool, self._places = spool, dict[str, int]()

    def add(self, name: str, tensor: Tensor) -> None:
        """Add a tensor."""
        self._places[name] = len(self._spool)
        self._spool.append(tensor)

    def __getitem__(self, name: str) -> Tensor:
        return self._spool[self._places[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


@dataclass(frozen=True)
class Request:
    """What is to be measured.

    Attributes:
        objective: says what a component is.
        evidence: on each linear.
        metric: how gradients of outputs are measured, for an output metric or for curvature.
        gradient_samples: calibration samples that first-order changes are taken on; None for all.
        keep_bases: whether the output bases are kept, in which linears can be truncated to any rank.
        structure: says what of a weight its components are those of.
    """

    objective: Objective
    evidence: Evidence
    metric: Fisher | None = None
    gradient_samples: int | None = None
    keep_bases: bool = False
    structure: Structure = field(default_factory=TwoFactor)


def request_of(recipe: Recipe, *, keep_bases: bool = False) -> Request:
    """Return what a recipe's allocation and objective ask for."""
    allocation = recipe.allocation
    metric = recipe.objective.output_metric
    if metric is None and isinstance(allocation, Curvature):
        metric = allocation.metric
    samples = allocation.gradient_samples if isinstance(allocation, ZeroSum) else None
    return Request(recipe.objective, allocation.evidence, metric, samples, keep_bases, recipe.structure)


@dataclass
class OutputGradients:
    """Sums over tokens for one linear; ``d`` is the gradient of the summed loss at its output.

    Attributes:
        weight: ``sum d x^T``, (m, n) float64, the gradient at the weight; None if it is not asked for.
        second: ``sum d d^T``, (m, m) float64; None if it is not asked for.
    """

    weight: Tensor | None = None
    second: Tensor | None = None


def measure(original: OriginalModel, request: Request, progress: Progress) -> Profile:
    """Return what is asked for.

    Args:
        original: the model.
        request: what to measure.
        progress: is called with (blocks done, blocks to do).

    Raises:
        NonFiniteError: a weight, an activation or a gradient is NaN or infinite.
    """
    return _Measurement(original, request, progress).run()


class _Measurement:
    def __init__(self, original: OriginalModel, request: Request, progress: Progress) -> None:
        self.original, self.progress = original, progress
        self.device = moment_device(original.device)
        self.objective, self.wants, self.metric = request.objective, request.evidence, request.metric
        self.samples, self.structure = request.gradient_samples, request.structure
        own = self.objective.output_metric
        self.metrics = SpooledTensors(original.workspace.spool("metrics", torch.float32)) if own is not None else None
        self.bases = [
            SpooledTensors(original.workspace.spool(name, torch.float32)) if request.keep_bases else None
            for name in ("basis", "dual")
        ]

    def run(self) -> Profile:
        blocks = self.original.blocks
        streams = self.original.forward() if self._looks_at_data else []
        # The tail of the model is run once for each kind of label.
        gradients: dict[str, Stream] = {}
        counts: dict[str, int] = {}
        if Evidence.FIRST_ORDER in self.wants:
            gradients["next"], counts["next"] = self.original.loss_gradient(streams[-1], None, self.samples)
        if self.metric is not None:
            gradients["metric"], counts["metric"] = self.original.loss_gradient(
                streams[-1], self.metric, self.metric.samples
            )
        found: dict[str, LinearEvidence] = {}
        for index in reversed(range(len(blocks))):
            block = blocks[index]
            with self.original.weights.lend(block.module, self.original.device):
                moments = self._moments(index, streams[index]) if streams else {}
                sums = self._gradients(index, streams[index], gradients) if gradients else {}
                similarity = None
                if Evidence.SIMILARITY in self.wants:
                    similarity = mean_cosine(streams[index], streams[index + 1])
                for group in block.groups:
                    for evidence in self._group(block, group, moments.pop(group, None), sums, counts):
                        found[evidence.path] = replace(evidence, similarity=similarity)
                    give_back_memory(self.original.device)
            if streams:
                streams.pop().delete()
            self.progress(len(blocks) - index, len(blocks))
        for stream in (*streams, *gradients.values()):
            stream.delete()
        basis, dual = self.bases
        solutions = {} if basis is None or dual is None else {path: (basis[path], dual[path]) for path in basis}
        linears = tuple(replace(found[shape.path], group=shape.group) for shape in shapes_of(blocks))
        return Profile(linears, self.metrics or {}, solutions)

    @property
    def _looks_at_data(self) -> bool:
        return self.objective.needs_data or bool(self.wants & ~Evidence.SPECTRUM)

    def _moments(self, index: int, stream: Stream) -> dict[Group, Moments]:
        if not self.objective.needs_data or not self._needs_spectrum:
            return {}
        block = self.original.blocks[index]
        return input_moments(block.module, block.groups, self.original.calls[index], stream, self.original.device)

    @property
    def _needs_spectrum(self) -> bool:
        return Evidence.SPECTRUM in self.wants or self.bases[0] is not None

    def _gradients(self, index: int, stream: Stream, gradients: dict[str, Stream]) -> dict[Target, OutputGradients]:
        """Carry the gradients to the front of a block, and return their sums over the tokens at its linears."""
        sums: dict[Target, OutputGradients] = {}

        def add_weight(target: Target, inputs: Tensor, at_output: Tensor) -> None:
            product = (at_output.float().T @ inputs.float()).to(self.device, torch.float64)
            known = sums.setdefault(target, OutputGradients())
            known.weight = product if known.weight is None else known.weight + product

        def add_second(target: Target, _: Tensor, at_output: Tensor) -> None:
            at_output = at_output.float()
            product = (at_output.T @ at_output).to(self.device, torch.float64)
            known = sums.setdefault(target, OutputGradients())
            known.second = product if known.second is None else known.second + product

        for name, observe, metric in (("next", add_weight, None), ("metric", add_second, self.metric)):
            if name in gradients:
                gradients[name] = self.original.backward(index, stream, gradients[name], metric, observe)
        return sums

    def _group(
        self,
        block: Block,
        group: Group,
        moments: Moments | None,
        sums: dict[Target, OutputGradients],
        counts: dict[str, int],
    ) -> Iterator[LinearEvidence]:
        if moments is not None and not moments.is_finite():
            paths = ", ".join(target.path for target in group.targets)
            raise NonFiniteError(f"The input of {paths} is NaN or infinite on the calibration tokens.")
        whitening = None
        if self._needs_spectrum:
            whitening = self.objective.whitening(moments, group.targets[0].in_features, self.device)
        for target in group.targets:
            linear = block.module.get_submodule(target.name)
            weight = weight_matrix(linear).detach().to(self.device, torch.float64)
            if not torch.isfinite(weight).all():
                raise NonFiniteError(
                    f"The weight of {target.path} is NaN or infinite. The model is not usable as it is."
                )
            evidence = LinearEvidence(target.path, target.shape, 0, target.name, has_bias=target.has_bias)
            gradients = sums.get(target, OutputGradients())
            second = _mean(gradients.second, counts.get("metric", 1), target.out_features, self.device)
            if self.metrics is not None:
                self.metrics.add(target.path, second)
            if whitening is not None:
                root = None if self.objective.output_metric is None else self.metric_root(second)
                remainder = self.structure.remainder(weight, whitening)
                solution = solve(whitening, None, remainder, root)
                tokens = moments.tokens if moments is not None else 1
                evidence = self._of_solution(evidence, solution, remainder, tokens, gradients, second, counts)
                if self.structure.adds_to_base:
                    whole = Fit(weight, whitening, root).loss(torch.zeros_like(weight))
                    evidence = replace(evidence, output_energy=whole / max(tokens, 1))
                for kept, tensor in zip(self.bases, (solution.basis, solution.dual), strict=True):
                    if kept is not None:
                        kept.add(target.path, tensor)
            yield evidence

    def metric_root(self, second: Tensor) -> Whitening:
        """Return the root of the output metric."""
        assert self.metric is not None
        return self.metric.root(second)

    def _of_solution(
        self,
        evidence: LinearEvidence,
        solution: Solution,
        weight: Tensor,
        tokens: int,
        gradients: OutputGradients,
        second: Tensor,
        counts: dict[str, int],
    ) -> LinearEvidence:
        """Return the evidence with what follows from a linear's components."""
        energy = solution.singular_values.square() / max(tokens, 1)
        first_order = curvature = None
        if Evidence.FIRST_ORDER in self.wants:
            first_order = first_order_changes(solution, weight, gradients.weight) / counts["next"]
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


def _mean(second: Tensor | None, count: int, size: int, device: torch.device) -> Tensor:
    zeros = torch.zeros(size, size, dtype=torch.float64, device=device)
    return zeros if second is None else second / count
