"""How vLLM loads and runs one of its linear layers when linears of it are compressed, or whole beside such ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from vllm.config import get_current_vllm_config
from vllm.model_executor.layers.linear import (
    ColumnParallelLinear,
    LinearBase,
    LinearMethodBase,
    MergedColumnParallelLinear,
    QKVParallelLinear,
    ReplicatedLinear,
    RowParallelLinear,
    UnquantizedLinearMethod,
)

from eckart.errors import ServingError
from eckart.methods.layout import Layout
from eckart.serve.arrival import DAMAGED, Arrival, empty_layer
from eckart.serve.cut import Cut
from eckart.serve.plan import PartPlan, ServedConfig
from eckart.serve.product import Product
from eckart.serve.vllm_placeholder import Placeholder, placeholder_of
from eckart.serve.vllm_product import pack_linears

FUSED_NAMES = {"q": 0, "k": 1, "v": 2}  # what vLLM calls the linears of an attention


def count_shards(layer: LinearBase) -> int:
    """Return how many linears vLLM thinks that a layer consists of."""
    return len(layer.output_partition_sizes)


def cut_of(layer: LinearBase) -> Cut:
    """Return which inputs and outputs of a layer this process has."""
    rank, count, local = layer.tp_rank, layer.tp_size, list(layer.output_partition_sizes)
    if isinstance(layer, RowParallelLinear):
        return Cut.by_inputs(layer.input_size, local, rank, count)
    copies = [1] * len(local)
    if isinstance(layer, QKVParallelLinear):
        copies = [1, layer.num_kv_head_replicas, layer.num_kv_head_replicas]
    if not isinstance(layer, ColumnParallelLinear):
        rank, count = 0, 1
    return Cut.by_outputs(layer.input_size, local, copies, rank, count)


class FactoredLinearMethod(LinearMethodBase):  # type: ignore[misc]
    """Loads the tensors of each linear that a layer is made of, and runs them as one :class:`Product`.

    Args:
        prefix: path of the layer.
        plans: of its parts.
        served: what config.json says.
        layout: of replaced linears.
        check: is called when the whole model is built.
    """

    def __init__(
        self, prefix: str, plans: list[PartPlan], served: ServedConfig, layout: Layout, check: Callable[[], None]
    ) -> None:
        self.prefix, self.plans, self.served, self.layout, self.check = prefix, plans, served, layout, check
        self.arrivals: list[Arrival] = []
        self.registered: set[str] = set()

    def create_weights(
        self,
        layer: LinearBase,
        input_size_per_partition: int,
        output_partition_sizes: list[int],
        input_size: int,
        output_size: int,
        params_dtype: torch.dtype,
        **extra_weight_attrs: Any,
    ) -> None:
        """Register what vLLM looks for when tensors come: a parameter without numbers for each of their names."""
        if type(layer) not in KNOWN_LAYERS:
            raise ServingError(
                f"{self.prefix} is a {type(layer).__name__} of vLLM, of which it is not known how it is cut over "
                "devices. Serve the model with transformers, or the dense one that `eckart merge` writes."
            )
        self.device = torch.empty(0).device
        self.dtype = params_dtype
        # The bias is registered by the layer itself, later, and with this.
        layer.weight_loader = partial(self._load, layer, "bias")
        for plan in self.plans:
            empty = self._empty(layer, plan, bias=True)
            for name, place in empty.state_dict().items():
                full = f"{plan.prefix}{name}"
                if full != "bias":
                    self._register(layer, full, place, placeholder_of(layer, plan, empty, name))

    def _register(self, layer: LinearBase, name: str, place: Tensor, kind: type[Placeholder]) -> None:
        *outer, leaf = name.split(".")
        self.registered.add(name.split(".")[0])
        holder: nn.Module = layer
        for part in outer:
            if part not in holder._modules:
                holder.add_module(part, nn.Module())
            holder = holder.get_submodule(part)
        if leaf in holder._parameters:
            return
        parameter = kind(torch.empty(0, dtype=place.dtype), requires_grad=False)
        parameter.weight_loader = partial(self._load, layer, name)
        holder.register_parameter(leaf, parameter)

    def _load(self, layer: LinearBase, name: str, parameter: object, tensor: Tensor, shard: Any = None) -> None:
        arrival = FUSED_NAMES.get(shard, shard)
        if "." in name and tensor.ndim == 2 and not tensor.is_contiguous() and tensor.t().is_contiguous():
            # Classes of models whose checkpoints hold transposed weights transpose all tensors of a linear's name, and
            # ours never are.
            tensor = tensor.t()
        for found in self._arrivals(layer):
            plan = found.plan
            if plan.arrival == arrival and name.startswith(plan.prefix) and parameter is not layer:
                found.add(name.removeprefix(plan.prefix), tensor)
                return
        raise ServingError(
            f"The weight files hold a tensor {name} of {self.prefix} ({shard!r}) that has no place there. {DAMAGED}"
        )

    def _arrivals(self, layer: LinearBase) -> list[Arrival]:
        """Return those of the parts; they are made with the first tensor, when it is known if there is a bias."""
        if not self.arrivals:
            cut = cut_of(layer)
            for plan in self.plans:
                empty = self._empty(layer, plan, bias=layer.bias is not None)
                self.arrivals.append(Arrival(plan, empty, cut.rows(plan.shards), cut.columns, self.device))
        return self.arrivals

    def _empty(self, layer: LinearBase, plan: PartPlan, *, bias: bool) -> nn.Module:
        cut = cut_of(layer)
        sizes = sum(cut.sizes[shard] for shard in plan.shards), cut.in_features
        ordered = plan.path in self.served.ordered
        return empty_layer(plan, self.layout, sizes, bias=bias, ordered=ordered, dtype=self.dtype)

    def process_weights_after_loading(self, layer: LinearBase) -> None:
        """Make the product of what has come.

        Raises:
            ServingError: something has not come, or vLLM's model lacks a linear that was compressed.
        """
        if "product" in layer._modules:
            return
        self.check()
        arrivals = self._arrivals(layer)
        if get_current_vllm_config().load_config.load_format == "dummy":
            for arrival in arrivals:
                arrival.fill()
        missing = [name for arrival in arrivals for name in arrival.missing()]
        if missing:
            more = f" and {len(missing) - 1} more tensors of {self.prefix}" if len(missing) > 1 else ""
            raise ServingError(f"The weight files lack {missing[0]}{more}. {DAMAGED}")
        order = cut_of(layer).order([arrival.plan.shards for arrival in arrivals])
        order = None if order is None else order.to(self.device)
        product = Product([arrival.part for arrival in arrivals if arrival.part is not None], order)
        bias = _joined_bias(arrivals, order)
        self.arrivals = []
        for name in self.registered:
            layer._modules.pop(name, None)
            layer._parameters.pop(name, None)
        # LoRA asks a layer for its weight to see on which device it is.
        layer.register_parameter("weight", nn.Parameter(torch.empty(0, device=self.device), requires_grad=False))
        layer.product = pack_linears(product)
        self._set_bias(layer, bias)

    def _set_bias(self, layer: LinearBase, bias: Tensor | None) -> None:
        """Give the layer its bias, or keep one that its class has no place for: the objective may have added it."""
        added = None
        if layer.bias is not None:
            assert bias is not None
            layer.bias = nn.Parameter(bias, requires_grad=False)
        elif not (isinstance(layer, RowParallelLinear) and layer.tp_rank > 0):  # of those that are added up, one has it
            added = bias
        layer.register_buffer("added_bias", added, persistent=False)

    def apply(self, layer: LinearBase, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Map (..., inputs of this process) to (..., its outputs)."""
        outputs: Tensor = layer.product(x)
        for term in (bias, layer.added_bias):
            if term is not None:
                outputs = outputs + term
        return outputs


def _joined_bias(arrivals: list[Arrival], order: Tensor | None) -> Tensor | None:
    present = [arrival.bias for arrival in arrivals if arrival.bias is not None]
    if not present:
        return None
    joined = torch.cat(
        [
            present[0].new_zeros(arrival.part.outputs()) if arrival.bias is None else arrival.bias
            for arrival in arrivals
            if arrival.part is not None
        ]
    )
    return joined if order is None else joined[order]


class WholeLinearMethod(UnquantizedLinearMethod):  # type: ignore[misc]
    """vLLM's own way with a layer that is as it was; beside compressed layers nothing else sees that all of it came.

    Args:
        prefix: path of the layer.
        expected: how many linears of the checkpoint it consists of.
        check: is called when the whole model is built.
    """

    def __init__(self, prefix: str, expected: int, check: Callable[[], None]) -> None:
        super().__init__()
        self.prefix, self.expected, self.check = prefix, expected, check
        self.came: set[object] = set()

    def create_weights(self, layer: LinearBase, *sizes: Any, **attributes: Any) -> None:
        """See the class of vLLM; the loader of the weight notes what comes."""
        load = attributes.pop("weight_loader")

        def counted(parameter: nn.Parameter, tensor: Tensor, *shard: Any) -> None:
            self.came.add(shard[0] if shard else None)
            load(parameter, tensor, *shard)

        super().create_weights(layer, *sizes, weight_loader=counted, **attributes)

    def process_weights_after_loading(self, layer: LinearBase) -> None:
        """See the class of vLLM.

        Raises:
            ServingError: the weight of a linear has not come.
        """
        self.check()
        one_by_one = not any(shard is None or isinstance(shard, tuple) for shard in self.came)
        is_dummy = get_current_vllm_config().load_config.load_format == "dummy"
        if not is_dummy and (not self.came or (one_by_one and len(self.came) < self.expected)):
            raise ServingError(
                f"The weight files lack {self.expected - len(self.came)} of {self.expected} weights of {self.prefix}. "
                f"{DAMAGED}"
            )
        super().process_weights_after_loading(layer)


KNOWN_LAYERS = (
    ReplicatedLinear,
    ColumnParallelLinear,
    MergedColumnParallelLinear,
    QKVParallelLinear,
    RowParallelLinear,
)
