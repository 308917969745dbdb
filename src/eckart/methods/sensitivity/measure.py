"""Measures the statistics of every linear in a walk through the original model, and back where it takes gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from eckart import processes
from eckart.blocks.backward import BackwardPass
from eckart.blocks.block import Group, LinearRef
from eckart.blocks.blockwise_model import BlockwiseModel, Streams
from eckart.blocks.owners import own_of
from eckart.blocks.passes import HiddenStates, empty_moments, input_moments
from eckart.blocks.shared_sums import add_moments
from eckart.device import give_back_memory, moment_device
from eckart.errors import UnsupportedModelError
from eckart.maths.moments import Moments
from eckart.maths.products import cross, gram
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
        looks = any(request.looks_at_data for request in self.requests)
        streams = self.original.forward() if looks else Streams()
        # The tail of the model is run once for each kind of label.
        gradients = {
            labels: BackwardPass.of_loss(self.original, streams, labels.source, labels.samples, name=self._name(labels))
            for labels in self.labels
        }
        for index in reversed(range(len(blocks))):
            block = blocks[index]
            with self.original.onload(index):
                sums = self._sums(index, streams, gradients)
                owners = dict(zip(block.linears, own_of(block.linears), strict=True))
                own = {ref for ref, owner in owners.items() if owner == processes.rank()}
                for group in block.groups:
                    moments = sums.moments.pop(group, None)
                    for solver in self.solvers:
                        solver.add(block, group, moments, sums, own)
                    give_back_memory(self.original.device)
                for solver in self.solvers:
                    solver.share(owners)
                    solver.add_block(block, sums)
            if looks:
                streams.delete(index)
            self.progress(len(blocks) - index, len(blocks))
        streams.delete_all()
        for gradient in gradients.values():
            gradient.close()
        return [solver.measurements() for solver in self.solvers]

    def _sums(
        self,
        index: int,
        streams: Streams,
        gradients: Mapping[Labels, BackwardPass],
    ) -> BlockSums:
        """Sum over the tokens at the linears of a block, and carry the gradients to the front of it."""
        block = self.original.blocks[index]
        moments: dict[Group, Moments] = {}
        leaders: dict[LinearRef, Moments] = {}
        here: list[Moments] = []
        if any(request.needs_moments for request in self.requests):
            apart = block.groups
            if self.labels:  # found where a block is run for its gradients anyway, but for the weights of experts
                alone = [group for group in block.groups if group.expert is None and not group.parts]
                moments = {group: empty_moments(group, self.original.device) for group in alone}
                leaders = {group.linears[0]: moments[group] for group in alone}
                here = list(moments.values())
                apart = tuple(group for group in block.groups if group not in moments)
            if apart:
                moments |= input_moments(self.original.block_pass(index), apart, streams.fronts[index])
        behind = {
            labels: self._second_moment(gradients[labels].behind(index))
            for labels in self.labels
            if labels.metric is not None
        }
        weighted: dict[Labels, dict[LinearRef, Tensor]] = {}
        rows: dict[Labels, dict[LinearRef, int]] = {}
        sums = {}
        for labels in self.labels:
            sums[labels] = self._backward(index, gradients[labels], labels, weighted, rows, leaders)
            leaders = {}
        add_moments(here)
        similarity = None
        if any(Needs.SIMILARITY in request.needs for request in self.requests):
            similarity = mean_cosine(streams.fronts[index], streams.behinds[index])
        counts = {labels: gradients[labels].count for labels in self.labels}
        return BlockSums(moments, sums, counts, weighted, behind, rows, similarity)

    def _second_moment(self, stream: HiddenStates) -> Tensor:
        total = torch.zeros(())
        for batch in stream:
            rows = batch.flatten(0, -2).to(self.original.device)
            if total.ndim and len(total) != rows.shape[1]:
                raise UnsupportedModelError(
                    f"A block is handed states of {len(total)} features for one sample and of {rows.shape[1]} for "
                    "another: their likeness cannot be measured. Use an allocation without gradients "
                    "(--set allocation=uniform), or leave the block (--ignore)."
                )
            total = total.to(self.device) + gram(rows).to(self.device, torch.float64)
        (found,) = processes.add_found([total if total.ndim else None], self.device)
        return total if found is None else found

    def _backward(
        self,
        index: int,
        gradient: BackwardPass,
        labels: Labels,
        weighted: dict[Labels, dict[LinearRef, Tensor]],
        all_rows: dict[Labels, dict[LinearRef, int]],
        leaders: dict[LinearRef, Moments],
    ) -> dict[LinearRef, Tensor]:
        """Return the sums of one kind of labels; add to what is weighted, and to the moments by each group's leader."""
        sums: dict[LinearRef, Tensor] = {}
        moments: dict[LinearRef, Tensor] = {}
        weights: dict[LinearRef, float] = {}
        rows: dict[LinearRef, int] = {}
        metric = labels.metric
        weighs = metric is not None and metric.weighs_tokens
        length = None if self.original.known.tokens is None else self.original.known.length
        # What a router hands a linear is no whole sequence.
        chosen = {ref for group in self.original.blocks[index].groups if group.routed for ref in group.linears}

        def sequences(ref: LinearRef, rows: int) -> int | None:
            if ref in chosen or ref.runs > 1:
                return None
            return rows // length if length and rows % length == 0 else 1

        def add(ref: LinearRef, inputs: Tensor, at_output: Tensor | None, asked: slice | None) -> None:
            if ref in leaders:
                leaders[ref].add(inputs)
            if at_output is None:
                return
            short = inputs.dtype == at_output.dtype == torch.bfloat16
            at_output, inputs = at_output.float(), inputs.float()
            if metric is None:
                product = cross(at_output, inputs, short=short)
            else:
                counted = metric.rows(at_output, sequences(ref, len(at_output)))
                product = gram(counted, short=short and counted is at_output)
            product = product.to(self.device, torch.float64)
            if asked is None:
                _add_to(sums, ref, product)
            elif metric is None:
                sums.setdefault(ref, product.new_zeros(ref.shape))[asked] += product
            else:  # outputs of different runs have no token in common
                size = ref.out_features // ref.runs
                sums.setdefault(ref, product.new_zeros(ref.runs, size, size))[asked.start // size] += product
            if weighs:
                sizes = at_output.norm(dim=1)
                weighed = inputs * sizes.sqrt()[:, None]
                # Inputs in 16 bits are rounded already, and by as much.
                product = gram(weighed.bfloat16().float(), short=True) if short else gram(weighed)
                _add_to(moments, ref, product.to(self.device, torch.float64))
                weights[ref] = weights.get(ref, 0.0) + float(sizes.sum())
                rows[ref] = rows.get(ref, 0) + len(inputs)

        gradient.step(index, add, all_inputs=bool(leaders))
        refs = self.original.blocks[index].linears
        sums, moments = (_of_all(refs, found, self.device) for found in (sums, moments))
        if weighs:
            weights = dict(zip(refs, processes.total(*(weights.get(ref, 0.0) for ref in refs)), strict=True))
            rows = dict(zip(refs, map(round, processes.total(*(rows.get(ref, 0) for ref in refs))), strict=True))
        all_rows[labels] = rows
        weighted[labels] = {t: moments[t] * (rows[t] / weights[t]) for t in moments if weights[t] > 0}
        return sums

    def _name(self, labels: Labels) -> str:
        return f"{self.labels.index(labels)}"


def _add_to(sums: dict[LinearRef, Tensor], ref: LinearRef, product: Tensor) -> None:
    sums[ref] = sums[ref] + product if ref in sums else product


def _of_all(refs: Sequence[LinearRef], sums: dict[LinearRef, Tensor], device: torch.device) -> dict[LinearRef, Tensor]:
    """Return sums over all processes, of those linears of a block that some process has one of."""
    found = processes.add_found([sums.get(ref) for ref in refs], device)
    return {ref: known for ref, known in zip(refs, found, strict=True) if known is not None}


def mean_cosine(front: HiddenStates, behind: HiddenStates) -> float:
    """Return the mean cosine of the hidden states of all tokens in front of a block and behind it."""
    total, count, other = 0.0, 0, 0
    for before, after in zip(front, behind, strict=True):
        if before.shape != after.shape:
            other = 1
            break
        cosines = functional.cosine_similarity(before.float(), after.float(), dim=-1)
        total, count = total + float(cosines.sum()), count + cosines.numel()
    total, counted, others = processes.total(total, count, other)
    return 0.0 if others else total / counted  # else nothing in one place is like anything in the other
