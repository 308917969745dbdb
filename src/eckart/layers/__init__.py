"""The modules that run in a compressed model, and the linear layers that they replace."""

from __future__ import annotations

from typing import TypeGuard

from torch import nn

from eckart.layers.child import Mask, Pattern, dense_weight_of, fill_child
from eckart.layers.dictionary import DictionaryLinear
from eckart.layers.embedding import EmbeddingTable, QuantizedEmbedding, TiedHead, fill_table
from eckart.layers.factored import FactoredLinear
from eckart.layers.fused import FusedLinear, fuse_modules, fused_layers, unfuse_modules
from eckart.layers.hybrid import HybridLinear
from eckart.layers.kept import KeptInputsLinear, KeptLinear, KeptOutputsLinear
from eckart.layers.kept_columns import KeptColumnsLinear
from eckart.layers.linear import bias_vector, input_of, is_linear, weight_matrix
from eckart.layers.masked import MaskedLinear
from eckart.layers.pivoted import PivotedLinear
from eckart.layers.quantized import QuantizedLinear
from eckart.layers.remapped import RemappedLinear
from eckart.layers.sparse import SparseLinear
from eckart.layers.two_factor import LowRankLinear

__all__ = [
    "DictionaryLinear",
    "EmbeddingTable",
    "FactoredLinear",
    "FusedLinear",
    "HybridLinear",
    "KeptColumnsLinear",
    "KeptInputsLinear",
    "KeptLinear",
    "KeptOutputsLinear",
    "LowRankLinear",
    "Mask",
    "MaskedLinear",
    "Pattern",
    "PivotedLinear",
    "QuantizedEmbedding",
    "QuantizedLinear",
    "RemappedLinear",
    "SparseLinear",
    "TiedHead",
    "bias_vector",
    "dense_weight_of",
    "fill_child",
    "fill_table",
    "fuse_modules",
    "fused_layers",
    "input_of",
    "is_linear",
    "is_replaced",
    "unfuse_modules",
    "weight_matrix",
]


def is_replaced(module: nn.Module) -> TypeGuard[FactoredLinear | QuantizedLinear | KeptLinear]:
    """Return whether ``module`` stands for a linear layer."""
    return isinstance(module, FactoredLinear | QuantizedLinear | KeptLinear)
