"""Distils a model whose blocks are all finished."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from eckart.blocks.blockwise_model import BlockwiseModel
from eckart.blocks.discovery import Block
from eckart.blocks.onload import WeightSource
from eckart.blocks.passes import ArgumentsByShape, HiddenStates
from eckart.blocks.tensor_cache import ScratchSpace
from eckart.compression.distil.student import StudentBlock
from eckart.compression.distil.training import Student
from eckart.compression.result import LayerRecord
from eckart.data.calibration import Calibration
from eckart.device import compute_dtype
from eckart.layers import PivotedLinear
from eckart.methods.distillation.choice import LogitDistillation
from eckart.methods.distillation.record import DistillationRecord
from eckart.methods.layout import Layout
from eckart.methods.training import EpochRecord, train


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
    plan: LogitDistillation,
    model: PreTrainedModel,
    blocks: Sequence[Block],
    stored: Callable[[int], Mapping[str, Tensor]],
    arguments: Sequence[ArgumentsByShape],
    inputs: HiddenStates,
    targets: HiddenStates,
    calibration: Calibration,
    *,
    weights: WeightSource,
    device: torch.device,
    scratch: ScratchSpace,
    recompute: bool,
    on_epoch: Callable[[int, EpochRecord], None] = lambda number, record: None,
) -> Distilled:
    """Train all blocks against the original model's predictions.

    Args:
        plan: of the training.
        model: whose blocks are compressed; stays as it is.
        blocks: of it.
        stored: gives all tensors of a block by its number.
        arguments: how the model calls each block.
        inputs: the stream in front of the first block.
        targets: the stream behind the last block of the original model.
        calibration: the tokens.
        weights: where the model's other tensors are.
        device: where blocks are run.
        scratch: where what is trained lives between uses.
        recompute: compute activations twice instead of holding them.
        on_epoch: is called with the number of each finished epoch, from 1, and its losses.
    """
    files = [None if scratch.in_memory else scratch.path(f"student-{index:05d}") for index in range(len(blocks))]
    student_blocks = [
        StudentBlock(block.module, stored(index), plan, device, file)
        for index, (block, file) in enumerate(zip(blocks, files, strict=True))
    ]
    head = BlockwiseModel(model, blocks, weights, device, scratch, calibration)
    head.arguments = list(arguments)
    with head.head() as logits:
        student = Student(
            student_blocks,
            arguments,
            calibration.tokens,
            inputs,
            targets,
            logits,
            device,
            compute_dtype(head.dtype, device),
            recompute=recompute or not scratch.in_memory,
        )
        record = train(plan, student, len(calibration.tokens), calibration.seed, on_epoch)
    return Distilled(DistillationRecord(**dict(record)), (block.result() for block in student_blocks))


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
        if layout.changes(record.rank):
            layer = layout.empty_like(linear, record.rank)
            if record.in_order:
                assert isinstance(layer, PivotedLinear)
                layer.index = None
            block.module.set_submodule(ref.name, layer)
