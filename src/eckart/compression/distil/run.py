"""Distils a model whose blocks are all finished."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from eckart.blocks.blockwise_model import OriginalModel
from eckart.blocks.discovery import Block
from eckart.blocks.onload import Weights
from eckart.blocks.passes import Calls, Stream
from eckart.blocks.tensor_cache import Workspace
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
    calls: Sequence[Calls],
    inputs: Stream,
    targets: Stream,
    calibration: Calibration,
    *,
    weights: Weights,
    device: torch.device,
    workspace: Workspace,
    recompute: bool,
    on_epoch: Callable[[int, EpochRecord], None] = lambda number, record: None,
) -> Distilled:
    """Train all blocks against the original model's predictions.

    Args:
        plan: of the training.
        model: whose blocks are compressed; stays as it is.
        blocks: of it.
        stored: gives all tensors of a block by its number.
        calls: how the model calls each block.
        inputs: the stream in front of the first block.
        targets: the stream behind the last block of the original model.
        calibration: the tokens.
        weights: where the model's other tensors are.
        device: where blocks are run.
        workspace: where what is trained lives between uses.
        recompute: compute activations twice instead of holding them.
        on_epoch: is called with the number of each finished epoch, from 1, and its losses.
    """
    files = [None if workspace.in_memory else workspace.path(f"student-{index:05d}") for index in range(len(blocks))]
    student_blocks = [
        StudentBlock(block.module, stored(index), plan, device, file)
        for index, (block, file) in enumerate(zip(blocks, files, strict=True))
    ]
    head = OriginalModel(model, blocks, weights, device, workspace, calibration)
    head.calls = list(calls)
    with head.head() as logits:
        student = Student(
            student_blocks,
            calls,
            calibration.tokens,
            inputs,
            targets,
            logits,
            device,
            compute_dtype(head.dtype, device),
            recompute=recompute or not workspace.in_memory,
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
    for target in block.targets:
        record = layers[target.path]
        linear: nn.Module = block.module.get_submodule(target.name)
        if layout.changes(record.rank):
            layer = layout.empty_like(linear, record.rank)
            if record.in_order:
                assert isinstance(layer, PivotedLinear)
                layer.index = None
            block.module.set_submodule(target.name, layer)
