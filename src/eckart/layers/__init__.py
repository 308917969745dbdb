"""The modules that run in a compressed model, and the linear layers that they replace."""

from __future__ import annotations

from torch import nn

from eckart.layers.child import Pattern as Pattern
from eckart.layers.child import fill_child as fill_child
from eckart.layers.factored import FactoredLinear as FactoredLinear
from eckart.layers.fused import FusedLinear as FusedLinear
from eckart.layers.fused import fuse_modules as fuse_modules
from eckart.layers.fused import fused_layers as fused_layers
from eckart.layers.fused import unfuse_modules as unfuse_modules
from eckart.layers.hybrid import HybridLinear as HybridLinear
from eckart.layers.linear import bias_vector as bias_vector
from eckart.layers.linear import is_linear as is_linear
from eckart.layers.linear import weight_matrix as weight_matrix
from eckart.layers.pivoted import PivotedLinear as PivotedLinear
from eckart.layers.quantized import QuantizedLinear as QuantizedLinear
from eckart.layers.remapped import RemappedLinear as RemappedLinear
from eckart.layers.sparse import SparseLinear as SparseLinear
from eckart.layers.two_factor import LowRankLinear as LowRankLinear


def is_replaced(module: nn.Module) -> bool:
    """Return whether ``module`` stands for a linear layer."""
    return isinstance(module, FactoredLinear | QuantizedLinear)
