"""Rows and columns of the matrices that layers are made of, and several of them as one.

None of them has a bias here, and none is trained.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from eckart.errors import ServingError
from eckart.layers.child import Child
from eckart.layers.quantized import QuantizedLinear
from eckart.layers.sparse import SparseLinear
from eckart.maths.packing import pack, unpack
from eckart.maths.quantization import QuantScheme
from eckart.maths.sparsity import GROUP, group_count

SMALLEST_GROUP = 8  # of numbers with one scale that a cut may leave; with fewer, scales take more than codes


def take_rows(matrix: Child, rows: Tensor) -> Child:
    """Return some outputs of a matrix.

    Args:
        matrix: in features -> out features.
        rows: numbers of outputs, (outputs,) int64, in any order.
    """
    if isinstance(matrix, QuantizedLinear):
        return _quantized(matrix.in_features, matrix.scheme, matrix.codes[rows], matrix.scales(rows))
    if isinstance(matrix, SparseLinear):
        return _sparse(matrix.in_features, matrix.values[rows], matrix.places[rows])
    return _dense(matrix.weight[rows])


def take_columns(matrix: Child, columns: slice) -> Child:
    """Return a matrix for some of the inputs, those from ``columns.start`` up to ``columns.stop``.

    Raises:
        ServingError: neighbours that are stored together would be cut too small.
    """
    start, stop = columns.start, columns.stop
    if isinstance(matrix, QuantizedLinear):
        return _columns_of_codes(matrix, start, stop)
    if isinstance(matrix, SparseLinear):
        if start % GROUP or (stop % GROUP and stop != matrix.in_features):
            raise ServingError(
                f"Inputs {start} to {stop} cut a group of {GROUP} inputs of which 2 are stored. Use a tensor parallel "
                f"size by which the {matrix.in_features} inputs fall into multiples of {GROUP}, or 1."
            )
        first, last = start // GROUP, math.ceil(stop / GROUP)
        places = unpack(matrix.places, 4, group_count(matrix.in_features))[:, first:last]
        return _sparse(stop - start, matrix.values[:, 2 * first : 2 * last], pack(places, 4))
    return _dense(matrix.weight[:, columns])


def _columns_of_codes(matrix: QuantizedLinear, start: int, stop: int) -> QuantizedLinear:
    scheme, width = matrix.scheme, stop - start
    codes = unpack(matrix.codes, scheme.bits, matrix.in_features)[:, start:stop]
    scale = matrix.scales()
    if scheme.group is not None:
        size = scheme.group_size(matrix.in_features)
        # A group that is cut becomes several with one scale: the same numbers.
        part = math.gcd(size, start, width)
        if part < min(SMALLEST_GROUP, size):
            raise ServingError(
                f"Inputs {start} to {stop} cut groups of {size} numbers that share a scale into pieces of {part}. Use "
                f"a tensor parallel size by which the {matrix.in_features} inputs fall into multiples of "
                f"{SMALLEST_GROUP}, or 1."
            )
        scheme = replace(scheme, group=part)
        scale = scale[:, torch.arange(start, stop, part, device=scale.device) // size]
    return _quantized(width, scheme, pack(codes, scheme.bits), scale)


def kind_of(matrix: Child) -> tuple[object, ...]:
    """Return what matrices have in common that :func:`stack` can make one of."""
    if isinstance(matrix, QuantizedLinear):
        return QuantizedLinear, matrix.in_features, matrix.scheme, matrix.scale_parameter.dtype
    if isinstance(matrix, SparseLinear):
        return SparseLinear, matrix.in_features, None, matrix.values.dtype
    return nn.Linear, matrix.in_features, None, matrix.weight.dtype


def stack(matrices: Sequence[Child]) -> Child:
    """Return one matrix with the outputs of several of one :func:`kind_of`, one behind another."""
    first = matrices[0]
    if isinstance(first, QuantizedLinear):
        scales = torch.cat([matrix.scales() for matrix in matrices if isinstance(matrix, QuantizedLinear)])
        codes = _all(matrices, "codes")
        return _quantized(first.in_features, first.scheme, codes, scales)
    if isinstance(first, SparseLinear):
        return _sparse(first.in_features, _all(matrices, "values"), _all(matrices, "places"))
    return _dense(_all(matrices, "weight"))


def without_bias(matrix: Child) -> Child:
    """Return a matrix with the same numbers in memory, and no bias."""
    if isinstance(matrix, QuantizedLinear):
        return _quantized(matrix.in_features, matrix.scheme, matrix.codes, matrix.scales())
    if isinstance(matrix, SparseLinear):
        return _sparse(matrix.in_features, matrix.values, matrix.places)
    return _dense(matrix.weight)


def moved(matrix: Child, device: torch.device) -> Child:
    """Return a copy of a matrix on a device: what came from a file is then no longer a part of it."""
    if isinstance(matrix, QuantizedLinear):
        codes, scale = matrix.codes.to(device, copy=True), matrix.scales().to(device, copy=True)
        return _quantized(matrix.in_features, matrix.scheme, codes, scale)
    if isinstance(matrix, SparseLinear):
        values, places = matrix.values.to(device, copy=True), matrix.places.to(device, copy=True)
        return _sparse(matrix.in_features, values, places)
    return _dense(matrix.weight.to(device, copy=True))


def _all(matrices: Sequence[Child], name: str) -> Tensor:
    tensors = [matrix.state_dict()[name] for matrix in matrices]
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


def _dense(weight: Tensor) -> nn.Linear:
    matrix = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta", dtype=weight.dtype)
    matrix.weight = _fixed(weight)
    return matrix


def _quantized(in_features: int, scheme: QuantScheme, codes: Tensor, scale: Tensor) -> QuantizedLinear:
    # Scales of 8 bits are held as what they stand for: engines know no others.
    scheme = replace(scheme, scale_bits=16)
    matrix = QuantizedLinear(in_features, len(codes), scheme, bias=False, device="meta", dtype=scale.dtype)
    matrix.codes, matrix.scale = codes.contiguous(), _fixed(scale)
    return matrix


def _sparse(in_features: int, values: Tensor, places: Tensor) -> SparseLinear:
    matrix = SparseLinear(in_features, len(values), bias=False, device="meta", dtype=values.dtype)
    matrix.values, matrix.places = _fixed(values), places.contiguous()
    return matrix


def _fixed(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.detach().contiguous(), requires_grad=False)
