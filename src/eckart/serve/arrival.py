"""The tensors of one linear as they come from a file, until all are there and become what one device computes."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from eckart.errors import ServingError
from eckart.layers import FactoredLinear, PivotedLinear, bias_vector
from eckart.methods.layout import Layout
from eckart.serve.part import Part, part_of, take_inputs, take_outputs
from eckart.serve.plan import PartPlan

DAMAGED = "The model is incomplete or damaged: copy or download its folder again."


def empty_layer(
    plan: PartPlan,
    layout: Layout,
    sizes: tuple[int, int],
    *,
    bias: bool,
    ordered: bool,
    dtype: torch.dtype,
) -> nn.Module:
    """Return the layer that a part is loaded as, without memory.

    Args:
        plan: of the part.
        layout: of replaced linears.
        sizes: (out features, in features) of the whole part.
        bias: whether the linear has one.
        ordered: whether a pivoted layer gives its outputs in order without an index.
        dtype: of what is no code.

    Raises:
        ServingError: the linear cannot have that rank.
    """
    out_features, in_features = sizes
    linear = nn.Linear(in_features, out_features, bias=bias, device="meta", dtype=dtype)
    if not plan.is_replaced:
        return linear
    layout = plan.layout or layout
    highest = layout.highest_rank(out_features, in_features)
    if plan.rank is not None and not 1 <= plan.rank <= highest:
        raise ServingError(
            f"config.json gives {plan.path} the rank {plan.rank}; expected a whole number from 1 to {highest}, since "
            f"its weight is {out_features} x {in_features} in this engine. {DAMAGED}"
        )
    layer = layout.empty_like(linear, plan.rank)
    if isinstance(layer, PivotedLinear) and ordered:
        layer.index = None
    return layer


class Arrival:
    """The tensors of one part.

    Args:
        plan: of the part.
        layer: from :func:`empty_layer`.
        rows: of its outputs, those of this device, (some,) int64; None for all.
        columns: of its inputs, those of this device; None for all.
        device: to put them on.
    """

    def __init__(
        self, plan: PartPlan, layer: nn.Module, rows: Tensor | None, columns: slice | None, device: torch.device
    ) -> None:
        self.plan, self._layer, self._rows, self._columns, self._device = plan, layer, rows, columns, device
        self._expected: dict[str, Tensor] = dict(layer.state_dict())
        self._found: dict[str, Tensor] = {}
        self.part: Part | None = None
        self.bias: Tensor | None = None

    def missing(self) -> list[str]:
        """Return the names of the tensors that have not come, as the file would have them."""
        absent = [] if self.part else [name for name in self._expected if name not in self._found]
        return [f"{self.plan.path}.{name}" for name in absent]

    def add(self, name: str, tensor: Tensor) -> None:
        """Take a tensor; with the last one :attr:`part` and :attr:`bias` are there.

        Args:
            name: below the path of the part, as ``first.weight``.
            tensor: as a file holds it.

        Raises:
            ServingError: it has no place here, came before, or has another shape or another kind of numbers.
        """
        full = f"{self.plan.path}.{name}"
        if name not in self._expected:
            raise ServingError(
                f"The weight files hold {full}, which has no place in a layer of rank {self.plan.rank} in this engine; "
                f"expected {', '.join(self._expected)}. {DAMAGED}"
            )
        if name in self._found or self.part is not None:
            raise ServingError(f"The weight files hold {full} twice. {DAMAGED}")
        place = self._expected[name]
        if tuple(tensor.shape) != tuple(place.shape):
            raise ServingError(
                f"The weight files hold {full} of shape {tuple(tensor.shape)}; expected {tuple(place.shape)} by "
                f"config.json and this engine. {DAMAGED}"
            )
        if tensor.is_floating_point() != place.is_floating_point() or (
            place.dtype in (torch.int8, torch.uint8) and tensor.dtype != place.dtype
        ):
            raise ServingError(f"The weight files hold {full} as {tensor.dtype}; expected {place.dtype}. {DAMAGED}")
        _check_finite(full, tensor)
        self._found[name] = tensor.detach().to(place.dtype)
        if len(self._found) == len(self._expected):
            self._complete()

    def fill(self) -> None:
        """Set numbers that mean nothing, on the device: for timing an engine without the files."""
        for name, place in self._expected.items():
            empty = torch.empty(place.shape, dtype=place.dtype, device=self._device)
            if place.is_floating_point():
                self._found[name] = empty.normal_(std=0.02)
            elif place.dtype in (torch.int8, torch.uint8):
                self._found[name] = empty.random_(0, 127)
            else:
                self._found[name] = torch.arange(len(place), dtype=place.dtype, device=self._device)
        self._complete()

    def _complete(self) -> None:
        layer = self._layer
        layer.load_state_dict(self._found, assign=True)
        if isinstance(layer, PivotedLinear) and not layer.has_valid_index():
            raise ServingError(f"The index of {self.plan.path} does not name each of its outputs once. {DAMAGED}")
        part = part_of(layer)
        bias = layer.dense_bias() if isinstance(layer, FactoredLinear) else bias_vector(layer)
        if self._rows is not None:
            part = take_outputs(part, self._rows)
            bias = None if bias is None else bias[self._rows]
        if self._columns is not None:
            try:
                part = take_inputs(part, self._columns)
            except ServingError as error:
                raise ServingError(f"{self.plan.path} cannot be cut over devices. {error}") from error
        self.part = part.to(self._device)
        self.bias = None if bias is None else bias.detach().clone().to(self._device)
        self._found, self._layer = {}, nn.Identity()


def _check_finite(name: str, tensor: Tensor) -> None:
    if not tensor.is_floating_point() or not tensor.numel():
        return
    if not all(map(math.isfinite, (float(end) for end in torch.aminmax(tensor)))):
        raise ServingError(f"The weight files hold NaN or infinite numbers in {name}. {DAMAGED}")
