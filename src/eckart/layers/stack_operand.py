"""What stands for a tensor of many matrices in an expression, when linear layers are in its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from eckart.device import has_kernel_for_each_shape
from eckart.layers.fused import JointPart

ROWS = 16  # of which the inputs of a layer are a multiple, where there are more


class StackOperand:
    """What stands for the matrices of a stack of linear layers, or for some of them. It is no tensor.

    Products with inputs run the layers, each once and with hooks: that of a matrix, of all matrices, of one matrix for
    each input, and of one for each range of inputs. Nothing else can be computed with it.

    Args:
        stack: whose children are the layers.
        sizes: (rows, columns) of each matrix as it is in this expression.
        numbers: of one matrix, or of one for each input (inputs,); None for all.
        flipped: whether a matrix is (in features, out features) here.
        wide: whether it stands for the numbers in float32.
    """

    def __init__(
        self,
        stack: nn.Module,
        sizes: tuple[int, int],
        numbers: int | Tensor | None,
        *,
        flipped: bool,
        wide: bool = False,
    ) -> None:
        self._stack, self._sizes, self._numbers, self._flipped, self._wide = stack, sizes, numbers, flipped, wide

    @property
    def _layers(self) -> list[nn.Module]:
        return cast("list[nn.Module]", list(self._stack._modules.values()))  # children() compares them all

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, numbers: int | Tensor) -> StackOperand:
        """Return what stands for one matrix, or for those of a tensor of numbers (inputs,)."""
        if self._numbers is not None:
            raise TypeError("no part of a matrix can be taken from a stack of linear layers")
        if not isinstance(numbers, Tensor) or numbers.ndim == 0:
            numbers = range(len(self))[int(numbers)]
        elif numbers.ndim > 1 or numbers.is_floating_point() or numbers.dtype is torch.bool:
            raise TypeError(f"{numbers.dtype} of shape {tuple(numbers.shape)} are no numbers of linear layers")
        return StackOperand(self._stack, self._sizes, numbers, flipped=self._flipped, wide=self._wide)

    def __iter__(self) -> Iterator[StackOperand]:
        return (self[number] for number in range(len(self)))

    @property
    def shape(self) -> torch.Size:
        """Of the tensor that this stands for."""
        if isinstance(self._numbers, int):
            return torch.Size(self._sizes)
        number = len(self._stack._modules) if self._numbers is None else len(self._numbers)
        return torch.Size((number, *self._sizes))

    def size(self, dimension: int | None = None) -> torch.Size | int:
        """Return :attr:`shape`, or one of its sizes."""
        return self.shape if dimension is None else self.shape[dimension]

    @property
    def ndim(self) -> int:
        """Dimensions of the tensor that this stands for."""
        return len(self.shape)

    def float(self) -> StackOperand:
        """Return what stands for one matrix in float32. Its layer computes as ever: inputs are brought to its dtype."""
        if not isinstance(self._numbers, int):
            raise TypeError("only one matrix of a stack of linear layers can be in another dtype")
        return StackOperand(self._stack, self._sizes, self._numbers, flipped=self._flipped, wide=True)

    @property
    def dtype(self) -> torch.dtype:
        """Of the tensor that this stands for."""
        return torch.float32 if self._wide else self._stored

    @property
    def _stored(self) -> torch.dtype:
        """Of the first layer's numbers."""
        return next(parameter.dtype for parameter in self._parameters() if parameter.is_floating_point())

    @property
    def device(self) -> torch.device:
        """Of the first layer's numbers."""
        return next(self._parameters()).device

    def _parameters(self) -> Iterator[nn.Parameter]:
        first = self._layers[0]
        return (first.leader if isinstance(first, JointPart) else first).parameters()

    def data_ptr(self) -> int:
        """Return an address for code that looks whether it is a multiple of something."""
        return 0

    def transpose(self, first: int, second: int) -> StackOperand:
        """Return what stands for the transpose of each matrix."""
        last = self.ndim - 1
        if {first % (last + 1), second % (last + 1)} != {last - 1, last}:
            raise TypeError(f"the dimensions {first} and {second} of a stack of linear layers cannot be transposed")
        return self.mT

    @property
    def mT(self) -> StackOperand:  # noqa: N802
        """What stands for the transpose of each matrix."""
        return StackOperand(self._stack, self._sizes[::-1], self._numbers, flipped=not self._flipped, wide=self._wide)

    @property
    def T(self) -> StackOperand:  # noqa: N802
        """What stands for the transpose of a matrix."""
        return self.transpose(0, 1)

    def t(self) -> StackOperand:
        """Return what stands for the transpose of a matrix."""
        return self.T

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Answer a product, and nothing else."""
        product = FUNCTIONS.get(getattr(function, "__name__", ""))
        return NotImplemented if product is None else product(*args, **(kwargs or {}))

    def _layer(self) -> nn.Module:
        """Return the layer of the one matrix."""
        if not isinstance(self._numbers, int):
            raise TypeError(f"expected one matrix of a stack of linear layers, found {tuple(self.shape)}")
        return self._layers[self._numbers]


def _linear(input: Tensor, weight: StackOperand, bias: Tensor | None = None) -> Tensor:
    """Do what ``torch.nn.functional.linear`` does."""
    output = _matmul(input, weight.mT)
    return output if bias is None else output + bias


def _matmul(input: Tensor, other: StackOperand) -> Tensor:
    """Do what ``torch.matmul`` does with one matrix, or with as many as there are inputs."""
    if isinstance(other, StackOperand) and isinstance(other._numbers, int):
        _check_flipped(other)
        if not other._wide:
            return cast(Tensor, other._layer()(input))
        return cast(Tensor, other._layer()(input.to(other._stored))).to(input.dtype)
    return _bmm(input, other)


def _bmm(input: Tensor | StackOperand, mat2: Tensor | StackOperand) -> Tensor:
    """Do what ``torch.bmm`` does."""
    if isinstance(input, StackOperand):  # W x^T = (x W^T)^T
        assert isinstance(mat2, Tensor)
        return _bmm(mat2.mT, input.mT).mT
    assert isinstance(mat2, StackOperand)
    _check_flipped(mat2)
    if input.ndim != 3 or len(input) != len(mat2):
        raise TypeError(f"inputs of shape {tuple(input.shape)} for {len(mat2)} linear layers")
    if mat2._numbers is None:
        return torch.stack([layer(rows) for layer, rows in zip(mat2._layers, input, strict=True)])
    assert isinstance(mat2._numbers, Tensor)
    numbers, order = mat2._numbers.sort(stable=True)
    ends = torch.bincount(numbers, minlength=len(mat2._layers)).cumsum(0)
    outputs = _run(input[order].flatten(0, 1), mat2, [end * input.shape[1] for end in ends.tolist()])
    return outputs.view(*input.shape[:2], outputs.shape[-1])[order.argsort()]


def _grouped_mm(
    input: Tensor,
    weight: StackOperand,
    offs: Tensor,
    *,
    bias: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """Do what ``torch.nn.functional.grouped_mm`` does: each layer is handed the inputs up to its end."""
    _check_flipped(weight)
    if weight._numbers is not None or bias is not None:
        raise TypeError("a grouped product takes all matrices of a stack of linear layers, and no bias")
    outputs = _run(input, weight, offs.tolist())
    return outputs if out_dtype is None else outputs.to(out_dtype)


def _run(inputs: Tensor, weight: StackOperand, ends: Sequence[int]) -> Tensor:
    """Return the outputs of each layer for its inputs, those up to its end; zeros for what is behind the last end."""
    starts, by_shape = [0, *ends[:-1]], has_kernel_for_each_shape(inputs)
    outputs = [
        _run_rounded(layer, inputs, start, end) if by_shape else layer(inputs[start:end])
        for layer, start, end in zip(weight._layers, starts, ends, strict=True)
        if end > start
    ]
    rest = len(inputs) - ends[-1]
    if rest or not outputs:
        outputs.append(inputs.new_zeros(rest, weight._sizes[1]))
    return torch.cat(outputs)


def _run_rounded(layer: nn.Module, inputs: Tensor, start: int, end: int) -> Tensor:
    """Return the outputs of a layer for its inputs, run on some of the neighbours' too, so that there are few shapes.

    Experts have other numbers of inputs each time, and to make a kernel takes longer than to run it. Where somebody
    looks at the layer it is handed its own inputs alone.
    """
    rows = end - start
    rounded = 1 << (rows - 1).bit_length() if rows < ROWS else -(-rows // ROWS) * ROWS
    if rounded == rows or rounded > len(inputs) or any(map(_is_watched, layer.modules())):
        return cast(Tensor, layer(inputs[start:end]))
    first = min(start, len(inputs) - rounded)
    return cast(Tensor, layer(inputs[first : first + rounded]))[start - first : end - first]


def _is_watched(module: nn.Module) -> bool:
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks) or "forward" in vars(module)


def _check_flipped(weight: object) -> None:
    if not isinstance(weight, StackOperand) or not weight._flipped:
        raise TypeError("a linear layer maps rows to rows: inputs (tokens, in features) times (in, out features)")


def _transpose(operand: StackOperand, *dimensions: int) -> StackOperand:
    return operand.transpose(*dimensions)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "linear": _linear,
    "matmul": _matmul,
    "__matmul__": _matmul,
    "mm": _matmul,
    "bmm": _bmm,
    "grouped_mm": _grouped_mm,
    "_grouped_mm": _grouped_mm,
    "grouped_mm_fallback": _grouped_mm,
    "transpose": _transpose,
}
"""What is done by the name of a function of torch."""
