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
        if current_platform.is_cpu():
            dispatch_cpu_unquantized_gemm(self, remove_weight=True)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (..., in features) to (..., out features)."""
        return cast(Tensor, self._multiply(self, inputs.contiguous(), self.weight, None))


def pack_linears(product: Product) -> Product:
    """Return a product whose plain linear layers vLLM multiplies with."""
    product.replace_linears(EngineLinear)
    return product
