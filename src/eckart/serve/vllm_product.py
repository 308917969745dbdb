"""The products of 16-bit matrices as vLLM runs them: on a CPU in an order of numbers of its own."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn
from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm, dispatch_unquantized_gemm
from vllm.platforms import current_platform

from eckart.serve.product import Product


class EngineLinear(nn.Module):
    """``y = W x`` by the product that vLLM chooses.

    Attributes:
        weight: (out features, in features); empty where vLLM holds a copy of it in another order.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = linear.weight
        self.bias = None
        self._multiply = dispatch_unquantized_gemm()
        self._is_packed = current_platform.is_cpu()
        if self._is_packed:
            dispatch_cpu_unquantized_gemm(self, remove_weight=True)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (..., in features) to (..., out features)."""
        # Those of a stacked product are columns of it. Products on a CPU want them side by side.
        inputs = inputs.contiguous() if self._is_packed else inputs
        return cast(Tensor, self._multiply(self, inputs, self.weight, None))


def pack_linears(product: Product) -> Product:
    """Return a product whose plain linear layers vLLM multiplies with."""
    product.replace_matrices(nn.Linear, EngineLinear)
    return product
