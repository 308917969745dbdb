"""Parameters without numbers, by which vLLM finds out where tensors of a checkpoint go."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn
from vllm.model_executor.layers.linear import LinearBase, QKVParallelLinear

from eckart.errors import ServingError
from eckart.layers import FactoredLinear, HybridLinear, LowRankLinear
from eckart.serve.plan import OTHERWISE, PartPlan


class Placeholder(nn.Parameter):
    """Of a tensor whose rows are no outputs of the layer.

    Attributes:
        weight_loader: is called with the parameter, the tensor and, for a linear of a fused layer, what vLLM calls it.
    """

    weight_loader: Callable[..., None]


class RowsPlaceholder(Placeholder):
    """Of a tensor whose rows are the outputs of the layer; a model's class may put them in another order."""

    output_dim = 0


class FixedPlaceholder(Placeholder):
    """Of a tensor of a layer whose outputs cannot be put in another order."""

    @property
    def output_dim(self) -> int:
        """What a model's class asks for when it is about to do so."""
        raise ServingError(
            "vLLM's class of this model puts the outputs of queries, keys and values in another order, which is not "
            f"possible in this layout. Use structure=two-factor or structure=hybrid. {OTHERWISE}"
        )


def placeholder_of(layer: LinearBase, plan: PartPlan, empty: nn.Module, name: str) -> type[Placeholder]:
    """Return the class for a tensor.

    Only where a checkpoint holds queries, keys and values as one does a model's class reorder outputs.

    Args:
        layer: of vLLM.
        plan: of the part that the tensor belongs to.
        empty: the layer that it is loaded as.
        name: of the tensor in that.
    """
    if not isinstance(layer, QKVParallelLinear) or plan.arrival is not None:
        return Placeholder
    if isinstance(empty, FactoredLinear) and type(empty) not in (LowRankLinear, HybridLinear):
        return FixedPlaceholder
    return Placeholder if name.startswith("first.") else RowsPlaceholder
