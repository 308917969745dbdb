"""What a pass must do at least, and how long that takes on this machine: bytes moved, and products of matrices.

A decoding step reads every weight once, whatever it does with it; many tokens at once reuse what was read. Which of the
two times is the longer one says what limits a pass (roofline, Williams and others 2009).
"""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

import torch
from torch import nn

from eckart.blocks.onload import named_tensors
from eckart.device import synchronize
from eckart.layers import QuantizedLinear, is_linear, weight_matrix
from eckart.layers.masked import MaskedLinear
from eckart.layers.sparse import SparseLinear

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BANDWIDTH_ROWS, BANDWIDTH_COLUMNS = 8192, 8192  # of a matrix that no cache holds
PRODUCT_SIDE = 1536
TRIALS = 5


@dataclass(frozen=True)
class Machine:
    """What a device can do.

    Attributes:
        bandwidth: bytes a second, read by the product of a large matrix and a vector.
        operations: multiplications and additions a second, in a product of square matrices.
    """

    bandwidth: float
    operations: float

    def seconds(self, work: Work) -> tuple[float, float]:
        """Return the least seconds for moving the bytes of ``work``, and for its products."""
        return work.bytes / self.bandwidth, work.operations / self.operations


@dataclass(frozen=True)
class Work:
    """What a pass must do at least: bytes to read, and multiplications and additions."""

    bytes: int
    operations: int

    @staticmethod
    def of(model: PreTrainedModel, tokens: int, cache_bytes: int) -> Work:
        """Return the work of a pass.

        Args:
            model: that is run.
            tokens: in all sequences together.
            cache_bytes: of keys and values that are read beside the weights.
        """
        embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
        # Of an embedding one row a token is read; one that is the head's weight too is read as that.
        skipped = set() if head is not None and head.weight is embedding.weight else {id(embedding.weight)}
        weights = sum(tensor.nbytes for _, tensor in named_tensors(model) if id(tensor) not in skipped)
        return Work(weights + cache_bytes, 2 * tokens * multiplied_numbers(model))


def multiplied_numbers(model: nn.Module) -> int:
    """Return how many numbers of weights each token is multiplied with, zeros that are not stored included."""
    total = 0
    for module in model.modules():
        if is_linear(module):
            total += weight_matrix(module).numel()
        elif isinstance(module, QuantizedLinear | SparseLinear | MaskedLinear):
            total += module.in_features * module.out_features
    return total


def measure_machine(device: torch.device, dtype: torch.dtype) -> Machine:
    """Return what ``device`` reaches in ``dtype``, the best of a few trials of a tenth of a second or so."""
    large = torch.ones(BANDWIDTH_ROWS, BANDWIDTH_COLUMNS, dtype=dtype, device=device)
    vector = torch.ones(BANDWIDTH_COLUMNS, dtype=dtype, device=device)
    square = torch.ones(PRODUCT_SIDE, PRODUCT_SIDE, dtype=dtype, device=device)
    reading = min(_seconds(large, vector, device) for _ in range(TRIALS))
    product = min(_seconds(square, square, device) for _ in range(TRIALS))
    return Machine(large.nbytes / reading, 2 * PRODUCT_SIDE**3 / product)


def _seconds(left: torch.Tensor, right: torch.Tensor, device: torch.device) -> float:
    synchronize(device)
    start = perf_counter()
    left @ right
    synchronize(device)
    return perf_counter() - start
