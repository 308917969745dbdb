"""How many bytes a run holds at once, from shapes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch

from eckart.blocks.block import Block, Group, LinearRef
from eckart.blocks.blockwise_model import BlockwiseModel
from eckart.blocks.discovery import vocabulary_of
from eckart.blocks.onload import ResidentWeights
from eckart.blocks.residual import FRONT
from eckart.compression.allocate import needs_measurement
from eckart.compression.plan import Plan
from eckart.compression.request import request_for_walk
from eckart.methods.objectives import InputSource
from eckart.methods.recipe import Recipe
from eckart.methods.sensitivity.layer_statistics import Needs

FLOAT32, FLOAT64 = 4, 8
# Measured: of products in 16 bits the CPU's library keeps a kernel for each of the last 1024 shapes. Experts, and
# samples that are run one by one, have a new shape each time.
KERNELS = 400_000_000


@dataclass(frozen=True)
class Memory:
    """Bytes that a run holds at once, beyond what the process holds before.

    Attributes:
        weights: the block that is worked on, in the dtype that it is computed in.
        streams: hidden states and inputs of linears of all calibration tokens, or what is kept while ranks are found;
            on the host.
        embedding: while the first hidden states are made.
        statistics: moments and what is summed into them.
        solver: while a linear is factored.
        training: float32 weights, gradients and optimiser of a refinement, or of a preparation.
        activations: of a batch of sequences in one of them.
        student: weights, gradients and optimisers of all blocks in a distillation, and the logits of a sequence.
        student_activations: of a batch of sequences in all blocks.
        blocks: how many there are.
        on_host: whether blocks are run on the host.
    """

    weights: int
    streams: int
    embedding: int
    statistics: int
    solver: int
    training: int
    activations: int
    student: int
    student_activations: int
    blocks: int
    on_host: bool

    def with_less(self, *, in_memory: bool, checkpoint: bool) -> Memory:
        """Return what is held if hidden states and the student are in files, or activations computed twice."""
        return replace(
            self,
            streams=self.streams if in_memory else 0,
            student=self.student if in_memory else self.student // self.blocks,
            activations=self.activations // 2 if checkpoint else self.activations,
            student_activations=self.student_activations // self.blocks if checkpoint else self.student_activations,
        )

    @property
    def working(self) -> int:
        """What is held where blocks are run."""
        return max(
            self.embedding,
            self.weights + max(self.statistics, self.solver, self.training + self.activations),
            self.student + self.student_activations,
        )

    @property
    def host(self) -> int:
        """What is held on the host."""
        return self.streams + (self.working if self.on_host else self.weights)

    @property
    def device(self) -> int:
        """What is held on the accelerator."""
        return 0 if self.on_host else self.working

    def fits(self, base: int, limit: int | None, device_limit: int | None) -> bool:
        """Return whether it fits beside the ``base`` bytes that the process holds already."""
        host = limit is None or base + self.host <= limit
        return host and (device_limit is None or self.device <= device_limit)


def memory_of_run(
    model: BlockwiseModel, plan: Plan, activations: int = 0, *, compute: torch.dtype | None = None
) -> Memory:
    """Return the bytes that a run will hold.

    Args:
        model: to be compressed; where its tensors are in memory, what is not widened is not copied.
        plan: the recipe and the ranks.
        activations: that the training of a block holds for one batch of sequences.
        compute: dtype of forward passes; by default that of the device.
    """
    recipe, calibration, compute = plan.recipe, model.calibration, compute or model.compute
    on_host, resident = model.device.type == "cpu", isinstance(model.weights, ResidentWeights)
    vocabulary = vocabulary_of(model.model) or 0
    block = max((block for block in plan.blocks if block.groups), key=_parameters)
    parameters = max(map(_parameters, plan.blocks))
    stored = model.dtype.itemsize
    copied = not (resident and on_host and compute.itemsize == stored)
    widths = [group.linears[0].in_features for group in block.groups]
    largest = max(widths)
    solver = FLOAT64 * max(_solver_numbers(t, recipe) for t in block.linears)
    streams = embedding = statistics = training = student = 0
    refined_on = distilled_on = 0  # sequences whose activations are held at once
    sequences = 1
    if calibration is not None:
        rows = max(map(model.rows, range(len(plan.blocks))))
        sequences = calibration.at_once
        batch = rows * sequences // len(calibration)
        refinement, distillation = recipe.refinement.training, recipe.distillation.training
        preparation = recipe.preparation.training
        if preparation is not None:
            refined_on = min(preparation.batch, sequences)
        if refinement is not None:
            refined_on = max(refined_on, min(refinement.batch, sequences))  # larger batches are run in parts
        if distillation is not None:
            distilled_on = min(distillation.batch, len(calibration))
        width, numbers = plan.blocks[-1].width, model.stream_numbers
        looks_at = recipe.objective.input_source
        trains = recipe.refinement.needs_data or recipe.distillation.needs_data
        both = looks_at is InputSource.BOTH or trains
        # In front of a block and behind it; both streams are one in front of the first block only.
        streams = stored * numbers * (4 if both else 2)
        if looks_at is InputSource.BOTH:
            kept = sum(group.linears[0].in_features for group in block.groups if not group.routed)
            inside = _places_inside(block) + len(block.mixtures)
            streams += compute.itemsize * rows * (kept + width * inside)
        streams = max(streams, _measurement_bytes(plan, numbers, stored))
        at_once = [block.groups] if looks_at is InputSource.ORIGINAL else _summed_at_once(block)
        moments = FLOAT64 * max(_moment_numbers(groups, paired=looks_at is InputSource.BOTH) for groups in at_once)
        # Of the residual stream, one group at a time.
        moments += FLOAT64 * max((t.size for t in block.linears if t.residual is not None), default=0)
        # A product is summed in float32 and added in float64.
        product = (FLOAT32 + FLOAT64) * largest**2 + FLOAT32 * batch * largest * 2
        forward = 3 * compute.itemsize * batch * max(max(t.out_features // t.runs for t in block.linears), largest)
        statistics = moments + product + forward
        routed = any(group.routed for group in block.groups)
        if on_host and compute.itemsize < FLOAT32 and (routed or calibration.tokens is None):
            statistics += KERNELS
        solver += moments
        embedding = (compute.itemsize + (0 if resident else stored)) * vocabulary * width
        if refinement is not None:
            # Weights, gradients and two moments of the optimiser; the best state and the present one; its float32 copy.
            training = _trained(block, plan) * (4 * FLOAT32 + 2 * stored + FLOAT32)
        if preparation is not None:
            # The float32 block; of what is trained the original, the change, its gradient and two moments of the
            # optimiser, the best state, and the penalty's matrices; roots and inverses of the inputs' moments.
            cut = [ref for ref in block.linears if plan.ranks[ref.path]]
            roots = sum(group.linears[0].in_features ** 2 for group in block.groups if not group.routed)
            prepared = _parameters(block) + 9 * sum(ref.size for ref in cut)
            training = max(training, prepared * FLOAT32 + roots * (2 * FLOAT64 + 2 * FLOAT32))
        if distillation is not None:
            student = sum(_trained(b, plan) for b in plan.blocks) * (4 * FLOAT32 + 2 * stored)
            # Of both models, with their logarithms and a gradient; the head beside them.
            student += 6 * FLOAT32 * (rows // len(calibration)) * vocabulary + embedding
    return Memory(
        weights=parameters * ((compute.itemsize if copied else 0) + (0 if resident else stored))
        + compute.itemsize * max(_beside(known, plan) for known in plan.blocks),
        streams=streams,
        embedding=embedding,
        statistics=statistics,
        solver=solver,
        training=training,
        activations=activations * refined_on // sequences,
        student=student,
        student_activations=activations * len(plan.blocks) * distilled_on // sequences,
        blocks=len(plan.blocks),
        on_host=on_host,
    )


def _measurement_bytes(plan: Plan, numbers: int, stored: int) -> int:
    """Return what is kept between blocks while ranks are found, for hidden states of so many numbers."""
    if not needs_measurement(plan):
        return 0
    recipe, request = plan.recipe, request_for_walk(plan.recipe)
    streams = stored * numbers * (len(plan.blocks) + 1)
    kinds = (Needs.FIRST_ORDER in request.needs) + (request.metric is not None)
    gradients = FLOAT32 * numbers * (kinds + 1 if kinds else 0)
    has_metrics = request.keep_metrics or recipe.objective.output_metric is not None
    metrics = FLOAT32 * sum(t.out_features**2 // t.runs for t in plan.linears) if has_metrics else 0
    pair = 2 if recipe.objective.output_metric else 1
    bases = FLOAT32 * pair * sum(t.out_features * min(t.shape) for t in plan.linears) if request.keep_bases else 0
    groups = [group for block in plan.blocks for group in block.groups] if request.keep_moments else []
    moments = FLOAT32 * _moment_numbers(groups, paired=False)
    return (
        streams
        + gradients
        + metrics
        + bases
        + moments
        + recipe.allocation.own_bytes([ref.shape for ref in plan.linears])
    )


def _solver_numbers(linear: LinearRef, recipe: Recipe) -> int:
    """Return the numbers that are there while a linear is factored, beside the moments of its inputs."""
    rows, columns = linear.shape
    once = recipe.objective.input_source is InputSource.ORIGINAL and not recipe.layout.looks_at_inputs
    # A solution up to a rank needs no root of the inputs' moment where outputs are the fewer.
    rooted = recipe.objective.needs_data and not (once and rows <= columns and not recipe.allocation.solves_first)
    # A weight, its least squares, their products, what is left of them; a Gram matrix and its eigenvectors.
    found = (6 if once else 8) * linear.size + 3 * min(rows, columns) ** 2
    # The scaled moment, its factors, the root, its inverse; the last two stay.
    return max(5 * columns**2, 2 * columns**2 + found) if rooted else found


def _beside(block: Block, plan: Plan) -> int:
    """Return the numbers that are there beside the linears that they replace, which are kept until a block's end."""
    return sum(plan.numbers_of(ref) for ref in block.linears_in_mixtures if plan.ranks[ref.path])


def _summed_at_once(block: Block) -> list[list[Group]]:
    """Return the groups of a block that are summed in the same pass of the compressed model."""
    found: dict[object, list[Group]] = {}
    for group in block.groups:
        found.setdefault(group if group.stage is None else group.stage, []).append(group)
    return list(found.values())


def _moment_numbers(groups: Iterable[Group], *, paired: bool) -> int:
    """Return the numbers in the moments of groups; of pairs in experts, the original inputs' own are there, too."""
    every = (part for group in groups for part in (group, *group.parts))
    return sum(
        part.linears[0].in_features ** 2 * (1 if not paired else 2 if part.expert is None else 3) for part in every
    )


def _places_inside(block: Block) -> int:
    """Return how many residual streams are kept beside those between blocks."""
    return len({ref.residual for ref in block.linears} - {None, FRONT})


def _trained(block: Block, plan: Plan) -> int:
    """Return the numbers of a block that training changes."""
    return _parameters(block) + sum(plan.numbers_of(ref) - ref.size for ref in block.linears)


def _parameters(block: Block) -> int:
    return sum(parameter.numel() for parameter in block.module.parameters())
