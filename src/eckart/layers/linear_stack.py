"""Matrices that a module holds in one tensor, such as the experts of a mixture, each as a linear layer of its own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from types import MethodType
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from eckart.layers.linear import weight_matrix

PRODUCTS = ("matmul", "__matmul__", "mm", "bmm")  # of torch, with the inputs before the weight


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
    the stack, or with a matrix taken from it, runs the child.

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

    def __getitem__(self, number: int | Tensor) -> _Operand:
        """Return what stands for one matrix; ``number`` may be a tensor of one integer."""
        return self._all()[number]

    def __iter__(self) -> Iterator[_Operand]:
        return iter(self._all())

    @property
    def layers(self) -> list[nn.Module]:
        """The children, in order."""
        return list(self.children())

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """Of each matrix as it lies in the parameter."""
        return cast(tuple[int, int], (self.shape.numel() // (len(self) * self.shape[-1]), self.shape[-1]))

    @property
    def ndim(self) -> int:
        """Dimensions of the parameter."""
        return len(self.shape)

    @property
    def dtype(self) -> torch.dtype:
        """Of the first child's numbers."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Of the first child's numbers."""
        return next(self.parameters()).device

    def size(self, dimension: int | None = None) -> torch.Size | int:
        """Return the parameter's shape, or one of its sizes."""
        return self.shape if dimension is None else self.shape[dimension]

    def transpose(self, first: int, second: int) -> _Operand:
        """Return what stands for the parameter with each matrix transposed."""
        return self._all().transpose(first, second)

    @property
    def mT(self) -> _Operand:  # noqa: N802
        """What stands for the parameter with each matrix transposed."""
        return self._all().mT

    def view(self, *shape: Any) -> _Operand:
        """Return what stands for the parameter as (number, *matrix_shape), the one view that there is."""
        sizes = tuple(shape[0]) if len(shape) == 1 and not isinstance(shape[0], int) else shape
        whole = (len(self), *self.matrix_shape)
        if len(sizes) != 3 or any(size not in (-1, known) for size, known in zip(sizes, whole, strict=True)):
            raise TypeError(f"a stack of {whole} cannot be viewed as {sizes}")
        return _Operand(self.layers, None, self.layout.transposed)

    reshape = view

    def _all(self) -> _Operand:
        if self.ndim != 3:
            raise TypeError(f"a stack of {len(self)} matrices in a tensor of shape {tuple(self.shape)} must be viewed")
        return _Operand(self.layers, None, self.layout.transposed)

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Answer a function of torch that is handed a stack."""
        operands = [arg._all() if isinstance(arg, LinearStack) else arg for arg in args]
        named = {name: arg._all() if isinstance(arg, LinearStack) else arg for name, arg in (kwargs or {}).items()}
        return function(*operands, **named)


class _Operand:
    """What stands for the matrices of a stack, or for one of them, in an expression. It is no tensor.

    Args:
        layers: of the stack.
        number: of one matrix; None for all.
        flipped: whether each matrix is (in features, out features) here.
    """

    def __init__(self, layers: Sequence[nn.Module], number: int | None, flipped: bool) -> None:
        self._layers, self._number, self._flipped = layers, number, flipped

    def __len__(self) -> int:
        return len(self._layers)

    def __getitem__(self, number: int | Tensor) -> _Operand:
        if self._number is not None:
            raise TypeError("no row of a matrix can be taken from a stack of linear layers")
        return _Operand(self._layers, range(len(self._layers))[int(number)], self._flipped)

    def __iter__(self) -> Iterator[_Operand]:
        return (self[number] for number in range(len(self._layers)))

    @property
    def shape(self) -> torch.Size:
        """Of the tensor that this stands for."""
        sizes = weight_matrix(self._layers[self._number or 0]).shape
        sizes = sizes[::-1] if self._flipped else sizes
        return torch.Size(sizes if self._number is not None else (len(self._layers), *sizes))

    @property
    def ndim(self) -> int:
        """Dimensions of the tensor that this stands for."""
        return 3 if self._number is None else 2

    def transpose(self, first: int, second: int) -> _Operand:
        """Return what stands for the transpose of each matrix."""
        if {first % self.ndim, second % self.ndim} != {self.ndim - 2, self.ndim - 1}:
            raise TypeError(f"the dimensions {first} and {second} of a stack of linear layers cannot be transposed")
        return self.mT

    @property
    def mT(self) -> _Operand:  # noqa: N802
        """What stands for the transpose of each matrix."""
        return _Operand(self._layers, self._number, not self._flipped)

    @property
    def T(self) -> _Operand:  # noqa: N802
        """What stands for the transpose of a matrix."""
        return self.transpose(0, 1)

    t = mT.fget

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Answer a product with the layers' outputs, and nothing else."""
        name = getattr(function, "__name__", "")
        if name == "linear":
            return _linear(*args, **(kwargs or {}))
        if name in PRODUCTS:
            return _product(*args, **(kwargs or {}))
        if name == "transpose":
            return args[0].transpose(*args[1:], **(kwargs or {}))
        return NotImplemented


def _linear(input: Tensor, weight: _Operand, bias: Tensor | None = None) -> Tensor:  # noqa: A002
    """Do what ``torch.nn.functional.linear`` does."""
    output = _product(input, weight.mT) if weight._number is not None else None
    if output is None:
        raise TypeError("a stack of linear layers is no weight of one")
    return output if bias is None else output + bias


def _product(input: Tensor, weight: _Operand) -> Tensor:  # noqa: A002
    """Do what ``torch.matmul`` does with a matrix, or what ``torch.bmm`` does with all of them."""
    if not isinstance(weight, _Operand) or not isinstance(input, Tensor) or not weight._flipped:
        raise TypeError("a linear layer maps rows to rows: inputs (tokens, in features) times (in, out features)")
    if weight._number is not None:
        return cast(Tensor, weight._layers[weight._number](input))
    if input.ndim != 3 or len(input) not in (1, len(weight)):
        raise TypeError(f"inputs of shape {tuple(input.shape)} for a stack of {len(weight)} linear layers")
    return torch.stack([layer(rows) for layer, rows in zip(weight._layers, input.expand(len(weight), -1, -1), strict=True)])


def expand_parameter(
    module: nn.Module, leaf: str, layout: StackLayout, make: Callable[[int, int, int], nn.Module] | None = None
) -> LinearStack:
    """Put a stack of linear layers, their numbers not set, in the place of a parameter.

    The module runs the forward of its class without decorators from now on: those of a base library's choose among
    implementations that read the parameter itself.

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
    module.forward = MethodType(inspect.unwrap(type(module).forward), module)
    return stack


def contract_parameter(module: nn.Module, leaf: str) -> nn.Parameter:
    """Put the parameter back in the place of a stack, all of whose layers are linear, and return it."""
    stack = module._modules.pop(leaf)
    assert isinstance(stack, LinearStack)
    weights = [layer.get_parameter("weight") for layer in stack.layers]
    whole = joined([weight.detach() for weight in weights], stack.layout, stack.shape)
    module.register_parameter(leaf, nn.Parameter(whole, requires_grad=weights[0].requires_grad))
    if not any(isinstance(child, LinearStack) for child in module._modules.values()):
        vars(module).pop("forward", None)
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
