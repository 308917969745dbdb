"""Distils a model whose blocks are all finished."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from eckart.blocks.block import Block
from eckart.blocks.blockwise_model import BlockwiseModel
from eckart.blocks.passes import HiddenStates
from eckart.compression.distil.lora import LoraBlock
from eckart.compression.distil.student import StudentBlock
from eckart.compression.distil.training import Student
from eckart.compression.records import LayerRecord
from eckart.layers import KeptLinear, PivotedLinear
from eckart.methods.distillation import LoraRecovery, ModelTraining
from eckart.methods.distillation.record import DistillationRecord
from eckart.methods.layout import Layout
from eckart.methods.training import EpochRecord, TrainingRun, train
from eckart.methods.training.record import TrainingRecord


@dataclass(frozen=True)
class Distilled:
    """The blocks that a distillation ended with.

    Attributes:
        record: what it did.
        blocks: all tensors of each block by their names in it, as they are to be saved; to be gone through once.
    """

    record: DistillationRecord
    blocks: Iterator[dict[str, Tensor]]


def distil(
    config: ModelTraining,
    model: BlockwiseModel,
    stored: Callable[[int], Mapping[str, Tensor]],
    inputs: HiddenStates,
    desired: Mapping[int, HiddenStates],
    *,
    recompute: bool,
    on_epoch: Callable[[int, EpochRecord], None] = lambda number, record: None,
) -> Distilled:
    """Train all blocks against the original model's predictions.

    Args:
        config: of the training.
        model: whose blocks are compressed; stays as it is. What is trained lives in its scratch space between uses.
        stored: gives all tensors of a block by its number.
        inputs: hidden states in front of the first block.
        desired: those behind the last block of the original model, and behind those that others look at, by number.
        recompute: compute activations twice instead of holding them.
        on_epoch: is called with the number of each finished epoch, from 1, and its losses.
    """
    scratch = model.scratch
    recompute = recompute or not scratch.in_memory
    epochs: list[EpochRecord] = []

    def tell(number: int, record: EpochRecord) -> None:
        on_epoch(len(epochs) + number, record)

    run = TrainingRun(model.compute, model.seed, recompute, tell)
    student_blocks: list[StudentBlock] = []
    records: list[TrainingRecord] = []
    with model.head() as head:
        for number, side in enumerate(config.sides):
            before = [block.result for block in student_blocks]
            generator = torch.Generator().manual_seed(model.seed * len(config.sides) + number)
            student_blocks = [
                _student(model, index, before[index]() if before else stored(index), config, side, generator)
                for index in range(len(model.blocks))
            ]
            student = Student(model, student_blocks, inputs, desired, head, recompute, config.follows_text)
            records.append(train(config, student, len(model.known), run))
            epochs += records[-1].epochs
    return Distilled(_record(records), (block.result() for block in student_blocks))


def _student(
    model: BlockwiseModel,
    index: int,
    tensors: Mapping[str, Tensor],
    config: ModelTraining,
    side: str | None,
    generator: torch.Generator,
) -> StudentBlock:
    """Return a block in training, all of it or adapters on one of its factors."""
    block, scratch = model.blocks[index], model.scratch
    file = None if scratch.in_memory else scratch.path(f"student-{index:05d}")
    if side is None:
        return StudentBlock(block.module, tensors, config, model.device, file, block.fixed)
    assert isinstance(config, LoraRecovery)
    return LoraBlock(block.module, tensors, config, model.device, file, block.fixed, side, generator)


def _record(records: Sequence[TrainingRecord]) -> DistillationRecord:
    """Return one record of trainings that followed one another; epochs are counted through."""
    kept, done = 0, 0
    for record in records:
        kept = done + record.kept_epoch if record.kept_epoch else kept
        done += len(record.epochs)
    return DistillationRecord(
        before=records[0].before,
        after=records[-1].after,
        kept_epoch=kept,
        epochs=[epoch for record in records for epoch in record.epochs],
    )


def put_layers(block: Block, layers: Mapping[str, LayerRecord], layout: Layout) -> None:
    """Give a block the layers that an earlier run has replaced its linears by, their numbers not yet set.

    Args:
        block: is changed in place.
        layers: records by path.
        layout: of the recipe.
    """
    for ref in block.linears:
        record = layers[ref.path]
        linear: nn.Module = block.module.get_submodule(ref.name)
        own = (layout if record.base is None else layout.based_on(record.base)).with_columns(record.columns)
        own = own.with_sparsity(record.sparsity)
        if record.kept is not None:
            own = layout.keeping(record.kept, direct=record.direct)
        if own.changes(record.rank):
            layer = own.empty_like(linear, record.rank)
            if record.in_order:
                assert isinstance(layer, PivotedLinear)
                layer.index = None
            if record.direct:
                assert isinstance(layer, KeptLinear)
                layer.drop_index()
            block.module.set_submodule(ref.name, layer)
