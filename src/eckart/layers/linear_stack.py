"""Matrices that a module holds in one tensor, such as the experts of a mixture, each as a linear layer of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from eckart.layers.stack_operand import StackOperand


class StackLayout(NamedTuple):
    """How matrices lie in a tensor.

    Attributes:
        number: of matrices, one after another.
        transposed: whether each is (in features, out features).
    """

    number: int
    transposed: bool


class LinearStack(nn.Module):
    """Stands in the place of a parameter (number, out features, in features), or of one that can be viewed so.

    Its children ``0``, ``1``, ... are linear layers. What computes with the parameter goes on as it is: a product with
    the stack, or with matrices taken from it, runs the children (see :class:`StackOperand`).

    Args:
        shape: of the parameter.
        layout: how the matrices lie in it.
        layers: the children, one for each matrix.
    """

    _is_hf_initialized = True  # for code that would give the parameter random numbers

    def __init__(self, shape: Sequence[int], layout: StackLayout, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.shape, self.layout = torch.Size(shape), layout
        for number, layer in enumerate(layers):
            self.add_module(str(number), layer)

    def __len__(self) -> int:
        return self.layout.number

    def __getitem__(self, numbers: int | Tensor) -> StackOperand:
        """Return what stands for one matrix, or for those of a tensor of numbers."""
        return self._all()[numbers]

    def __iter__(self) -> Iterator[StackOperand]:
        return iter(self._all())

    def __getattr__(self, name: str) -> Any:
        """Return what stands for the parameter where it is asked something that a module is not, such as ``mT``."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("_") or not hasattr(StackOperand, name):
                raise
            return getattr(self._all(), name)

    @property
    def layers(self) -> list[nn.Module]:
        """The children, in order."""
        return list(self.children())

    def view(self, *shape: Any) -> StackOperand:
        """Return what stands for the parameter as (number, rows, columns), the one view that there is."""
        sizes = tuple(shape[0]) if len(shape) == 1 and not isinstance(shape[0], int) else shape
        whole = self._matrices().shape
        if len(sizes) != 3 or any(size not in (-1, known) for size, known in zip(sizes, whole, strict=True)):
            raise TypeError(f"a stack of {tuple(whole)} cannot be viewed as {sizes}")
        return self._matrices()

    reshape = view

    def _matrices(self) -> StackOperand:
        columns = self.shape[-1]
        return StackOperand(
            self, (self.shape.numel() // (len(self) * columns), columns), None, flipped=self.layout.transposed
        )

    def _all(self) -> StackOperand:
        if len(self.shape) != 3:
            raise TypeError(f"a stack of {len(self)} matrices in a tensor of shape {tuple(self.shape)} must be viewed")
        return self._matrices()

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Answer a function of torch that is handed a stack."""
        operands = [arg._all() if isinstance(arg, LinearStack) else arg for arg in args]
        named = {name: arg._all() if isinstance(arg, LinearStack) else arg for name, arg in (kwargs or {}).items()}
        return function(*operands, **named)


def expand_parameter(
    module: nn.Module, leaf: str, layout: StackLayout, make: Callable[[int, int, int], nn.Module] | None = None
) -> LinearStack:
    """Put a stack of linear layers, their numbers not set, in the place of a parameter.

    Args:
        module: that holds the parameter; is changed in place.
        leaf: name of the parameter.
        layout: how the matrices lie in it.
        make: makes a layer from its number, in features and out features; by default a linear one without numbers.

    Raises:
        ValueError: the parameter does not hold so many matrices.
    """
    parameter = module._parameters.get(leaf)
    if parameter is None:
        raise ValueError(f"there is no parameter {leaf!r}")
    columns = parameter.shape[-1] if parameter.ndim in (2, 3) else 0
    sizes = (len(parameter),) if parameter.ndim == 3 else (1, layout.number)
    rows, rest = divmod(parameter.numel(), layout.number * columns) if columns and layout.number > 0 else (0, 1)
    if rest or not rows or (parameter.ndim == 3 and layout.number not in sizes):
        raise ValueError(f"{leaf} of shape {tuple(parameter.shape)} holds no {layout.number} matrices")
    in_features, out_features = (rows, columns) if layout.transposed else (columns, rows)
    if make is None:
        empty = partial(nn.Linear, bias=False, dtype=parameter.dtype, device="meta")
        layers = [empty(in_features, out_features) for _ in range(layout.number)]
        if not parameter.is_meta:
            layers = [layer.to_empty(device=parameter.device) for layer in layers]
    else:
        layers = [cast(nn.Linear, make(n, in_features, out_features)) for n in range(layout.number)]
    stack = LinearStack(parameter.shape, layout, layers)
    stack.train(module.training)
    del module._parameters[leaf]
    module._modules[leaf] = stack
    return stack


def contract_parameter(module: nn.Module, leaf: str) -> nn.Parameter:
    """Put the parameter back in the place of a stack, all of whose layers are linear, and return it."""
    stack = module._modules.pop(leaf)
    assert isinstance(stack, LinearStack)
    weights = [layer.get_parameter("weight") for layer in stack.layers]
    whole = joined([weight.detach() for weight in weights], stack.layout, stack.shape)
    module.register_parameter(leaf, nn.Parameter(whole, requires_grad=weights[0].requires_grad))
    return module.get_parameter(leaf)


def linear_stacks(model: nn.Module) -> dict[str, LinearStack]:
    """Return the stacks in a model by the paths of their parameters."""
    return {path: module for path, module in model.named_modules() if isinstance(module, LinearStack)}


def owner_of(model: nn.Module, path: str) -> tuple[nn.Module, str]:
    """Return the module that holds the parameter or stack at ``path``, and its name there."""
    place, _, leaf = path.rpartition(".")
    return model.get_submodule(place), leaf


def joined(weights: Sequence[Tensor], layout: StackLayout, shape: Sequence[int]) -> Tensor:
    """Return the parameter of the given shape in which weights (out features, in features) lie."""
    return torch.stack([weight.T if layout.transposed else weight for weight in weights]).view(*shape)


def part_of(parameter: Tensor, layout: StackLayout, number: int) -> Tensor:
    """Return the weight (out features, in features) of one linear layer of a parameter's stack, a view."""
    matrix = parameter.view(layout.number, -1, parameter.shape[-1])[number]
    return matrix.T if layout.transposed else matrix
