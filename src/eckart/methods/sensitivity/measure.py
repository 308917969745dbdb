"""Measures the statistics of every linear in a walk through the original model, and back where it takes gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from eckart.blocks.blockwise_model import BlockwiseModel
from eckart.blocks.discovery import Group, LinearRef
from eckart.blocks.passes import HiddenStates, empty_moments, input_moments
from eckart.device import give_back_memory, moment_device
from eckart.maths.moments import Moments, gram
from eckart.methods.sensitivity.layer_statistics import Needs
from eckart.methods.sensitivity.measurements import Measurements
from eckart.methods.sensitivity.request import Labels, Request
from eckart.methods.sensitivity.solver import BlockSums, Solver

Progress = Callable[[int, int], None]


def measure(original: BlockwiseModel, request: Request, progress: Progress) -> Measurements:
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
    original: BlockwiseModel, requests: Sequence[Request], progress: Progress, *, first: int = 0
) -> list[Measurements]:
    """Return what each request asks for, from one walk: streams, moments and gradients are shared.

    Args:
        original: as for :func:`measure`, like ``progress``.
        requests: what to measure; different ones are best merged before
            (:func:`eckart.methods.sensitivity.request.merge`).
        progress: is called.
        first: number of the first request, by which the files of what is kept are told from those of earlier ones.

    Raises:
        NonFiniteError: see :func:`measure`; of any of the requests.
    """
    solvers = [Solver(original, request, number) for number, request in enumerate(requests, first)]
    return _Measurement(original, solvers, progress).run()


class _Measurement:
    """The walk: what does not depend on what a component is."""

    def __init__(self, original: BlockwiseModel, solvers: Sequence[Solver], progress: Progress) -> None:
        self.original, self.solvers, self.progress = original, solvers, progress
        self.requests = [solver.request for solver in solvers]
        self.device = moment_device(original.device)
        found = [labels for r in self.requests for labels in (r.next_labels, r.metric_labels) if labels is not None]
        self.labels = list(dict.fromkeys(found))

    def run(self) -> list[Measurements]:
        blocks = self.original.blocks
        streams = self.original.forward() if any(request.looks_at_data for request in self.requests) else []
        # The tail of the model is run once for each kind of label.
        gradients: dict[Labels, HiddenStates] = {}
        counts: dict[Labels, int] = {}
        for labels in self.labels:
            gradients[labels], counts[labels] = self.original.loss_gradient(
                streams[-1], labels.source, labels.samples, name=self._name(labels)
            )
        for index in reversed(range(len(blocks))):
            block = blocks[index]
            with self.original.onload(index):
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
        return [solver.measurements() for solver in self.solvers]

    def _sums(
        self,
        index: int,
        streams: Sequence[HiddenStates],
        gradients: dict[Labels, HiddenStates],
        counts: dict[Labels, int],
    ) -> BlockSums:
        """Sum over the tokens at the linears of a block, and carry the gradients to the front of it."""
        block = self.original.blocks[index]
        moments: dict[Group, Moments] = {}
        leaders: dict[LinearRef, Moments] = {}
        if any(request.needs_moments for request in self.requests):
            if self.labels:  # found where a block is run for its gradients anyway
                moments = {group: empty_moments(group, self.original.device) for group in block.groups}
                leaders = {group.linears[0]: moments[group] for group in block.groups}
            else:
                moments = input_moments(self.original.block_pass(index), block.groups, streams[index])
        behind = {labels: self._second_moment(gradients[labels]) for labels in self.labels if labels.metric is not None}
        weighted: dict[Labels, dict[LinearRef, Tensor]] = {}
        sums = {}
        for labels in self.labels:
            sums[labels] = self._backward(index, streams[index], gradients, labels, weighted, leaders)
            leaders = {}
        similarity = None
        if any(Needs.SIMILARITY in request.needs for request in self.requests):
            similarity = mean_cosine(streams[index], streams[index + 1])
        return BlockSums(moments, sums, counts, weighted, behind, similarity)

    def _second_moment(self, stream: HiddenStates) -> Tensor:
        total = torch.zeros(())
        for batch in stream:
            rows = batch.flatten(0, -2).to(self.original.device)
            total = total.to(self.device) + gram(rows).to(self.device, torch.float64)
        return total

    def _backward(
        self,
        index: int,
        stream: HiddenStates,
        gradients: dict[Labels, HiddenStates],
        labels: Labels,
        weighted: dict[Labels, dict[LinearRef, Tensor]],
        leaders: dict[LinearRef, Moments],
    ) -> dict[LinearRef, Tensor]:
        """Return the sums of one kind of labels; add to ``weighted``, and to the moments by each group's leader."""
        sums: dict[LinearRef, Tensor] = {}
        moments: dict[LinearRef, Tensor] = {}
        weights: dict[LinearRef, float] = {}
        weighs = labels.metric is not None and labels.metric.weighs_tokens

        def add(ref: LinearRef, inputs: Tensor, at_output: Tensor | None) -> None:
            if ref in leaders:
                leaders[ref].add(inputs)
            if at_output is None:
                return
            at_output, inputs = at_output.float(), inputs.float()
            product = at_output.T @ inputs if labels.metric is None else gram(at_output)
            _add_to(sums, ref, product.to(self.device, torch.float64))
            if weighs:
                sizes = at_output.norm(dim=1, keepdim=True)
                _add_to(moments, ref, gram(inputs * sizes.sqrt()).to(self.device, torch.float64))
                weights[ref] = weights.get(ref, 0.0) + float(sizes.sum())

        name = self._name(labels)
        gradients[labels] = self.original.backward(index, stream, gradients[labels], name, add)
        tokens = self.original.tokens.numel()
        weighted[labels] = {t: moments[t] * (tokens / weights[t]) for t in moments if weights[t] > 0}
        return sums

    def _name(self, labels: Labels) -> str:
        return f"{self.labels.index(labels)}"


def _add_to(sums: dict[LinearRef, Tensor], ref: LinearRef, product: Tensor) -> None:
    sums[ref] = sums[ref] + product if ref in sums else product


def mean_cosine(front: HiddenStates, behind: HiddenStates) -> float:
    """Return the mean cosine of the hidden states of all tokens in front of a block and behind it."""
    total, count = 0.0, 0
    for before, after in zip(front, behind, strict=True):
        cosines = functional.cosine_similarity(before.float(), after.float(), dim=-1)
        total, count = total + float(cosines.sum()), count + cosines.numel()
    return total / count
