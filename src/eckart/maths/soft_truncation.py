r"""Differentiable truncation of activations, and what follows for weights (Dobi-SVD, arXiv 2502.02723, section 3).

Outputs of a linear, Y (tokens, features) ``= U diag(s) V^T``, become ``U diag(s g) V^T`` with a soft gate g that falls
from 1 to 0 around a position that can be trained. Everything here is a pure function of tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Two singular values count as equal in the gradient when they differ by less than this share of their mean ...
RELATIVE_GAP = 1e-3
# ... or by less than this many roundings of the largest singular value: what lies below is the error of the SVD.
ROUNDINGS = 4


def gate(position: Tensor, size: int, sharpness: float = 10.0) -> Tensor:
    """Return ``0.5 tanh(sharpness (position - i)) + 0.5``, (size,), in the dtype of the position.

    The index i counts from 0 at the largest singular value. So component i passes by half at ``position == i``, and
    an integer position p passes p components whole and the next one by half.

    Args:
        position: scalar of a float dtype; may need a gradient.
        size: of components.
        sharpness: how steeply the gate falls; 10 in the paper.
    """
    index = torch.arange(size, dtype=position.dtype, device=position.device)
    return 0.5 * torch.tanh(sharpness * (position - index)) + 0.5


def soft_truncate(
    activations: Tensor, position: Tensor, sharpness: float = 10.0, relative_gap: float = RELATIVE_GAP
) -> Tensor:
    """Return the activations with their singular values gated, differentiable (once) in both arguments.

    Args:
        activations: (..., tokens, features), any float dtype; computed in float32 or wider.
        position: scalar of a float dtype, on the device of the activations.
        sharpness: of the gate.
        relative_gap: singular values that differ by less than this share of their mean count as equal in the gradient,
            see :class:`_SoftTruncation`.

    Raises:
        torch.linalg.LinAlgError: the activations are not finite.
    """
    apply: Callable[..., Tensor] = _SoftTruncation.apply  # which only some releases of torch give a type
    return apply(activations, position, sharpness, relative_gap)


class _SoftTruncation(torch.autograd.Function):
    r"""The map ``Y -> U diag(s g) V^T``, whose derivative is taken as a whole and not through U, s and V.

    In the bases U and V, the symmetric part of a change dY is multiplied by ``(s_i g_i - s_j g_j) / (s_i - s_j)``, its
    antisymmetric part by ``(s_i g_i + s_j g_j) / (s_i + s_j)``, which lies between the two gates, and what is outside
    of the two bases by the gate itself, which stands for ``s_i g_i / s_i``. The first of these is

        (g_i + g_j) / 2 + (g_i - g_j) m / d,    m = (s_i + s_j) / 2,    d = s_i - s_j.

    Where the gates are equal this is the gate, exactly and however close the values are. Only ``m / d`` can grow
    without bound, where two singular values meet whose gates differ: the gate belongs to the index and not to the
    value, and there the map has no derivative. So ``1 / d`` is taken as ``d / max(d^2, e^2)`` with
    ``e = max(relative_gap m, 4 roundings of s_0)``: exact for ``|d| >= e``, and falling to zero with d below that, so
    that two equal values have the mean of their gates. No factor exceeds ``1 + 1 / relative_gap``. The paper bounds
    ``1 / (s_i^2 - s_j^2)`` by a Taylor expansion. The gap is relative to the pair and not to the largest value, which
    in a language model is often 10^4 times the others: a gap relative to it would take them all as equal.

    The map of changes is symmetric, so the backward pass is the same map applied to the gradient.
    """

    @staticmethod
    def forward(ctx: Any, activations: Tensor, position: Tensor, sharpness: float, relative_gap: float) -> Tensor:
        wide = activations if activations.dtype == torch.float64 else activations.float()
        left, values, right = _svd(wide)
        gates = gate(position.detach().to(wide), values.shape[-1], sharpness)
        ctx.save_for_backward(left, values, right, gates)
        ctx.sharpness, ctx.relative_gap = sharpness, relative_gap
        ctx.dtype, ctx.position = activations.dtype, (position.dtype, position.shape)
        return _narrow((left * (values * gates)[..., None, :]) @ right, activations.dtype)

    # The saved factors carry no graph: a second derivative would be silently wrong.
    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        left, values, right, gates = ctx.saved_tensors
        gradient = gradients[0].to(values.dtype)
        inside_left = left.mT @ gradient  # (k, features)
        inside_right = gradient @ right.mT  # (tokens, k)
        core = inside_left @ right.mT  # (k, k)
        symmetric, antisymmetric = (core + core.mT) / 2, (core - core.mT) / 2
        of_symmetric, of_antisymmetric = _factors(values, gates, ctx.relative_gap)
        back = (
            left @ (of_symmetric * symmetric + of_antisymmetric * antisymmetric) @ right
            + ((inside_right - left @ core) * gates) @ right
            + left @ (gates[:, None] * (inside_left - core @ right))
        )
        # d g / d position = sharpness / 2 (1 - tanh^2), and tanh = 2 g - 1.
        slopes = ctx.sharpness * 2 * gates * (1 - gates)
        of_position = (core.diagonal(dim1=-2, dim2=-1) * values * slopes).sum()
        dtype, shape = ctx.position
        return _narrow(back, ctx.dtype), _narrow(of_position, dtype).reshape(shape), None, None


def _factors(values: Tensor, gates: Tensor, relative_gap: float) -> tuple[Tensor, Tensor]:
    """Return what multiplies the symmetric and the antisymmetric part of a change, (..., k, k) each.

    Args:
        values: (..., k), falling, not negative.
        gates: (k,).
        relative_gap: see :class:`_SoftTruncation`.
    """
    # The factors do not depend on the scale, and squares of unscaled values leave the range of float32.
    largest = values[..., :1]
    scaled = values / torch.where(largest > 0, largest, torch.ones_like(largest))
    first, second = scaled[..., :, None], scaled[..., None, :]
    both, difference = first + second, first - second
    gap = (relative_gap * both / 2).clamp_min(ROUNDINGS * torch.finfo(values.dtype).eps)
    mean, change = (gates[:, None] + gates[None, :]) / 2, gates[:, None] - gates[None, :]
    inverse = difference / torch.maximum(difference.square(), gap.square())
    # (s_i g_i + s_j g_j) / (s_i + s_j) as a mean of the gates; two zeros have no ratio, and any mean is a derivative
    # of the map along some path towards them.
    ratio = difference / torch.where(both > 0, both, torch.ones_like(both))
    return mean + change * inverse * both / 2, mean + change * ratio / 2


def _narrow(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Cast, with numbers beyond the range of a 16-bit dtype at its end and not infinite."""
    limit = torch.finfo(dtype).max
    return tensor if tensor.dtype == dtype else tensor.clamp(-limit, limit).to(dtype)


def add_projector(total: Tensor, outputs: Tensor, rank: int) -> None:
    """Add ``V V^T`` of one sequence to a sum, V its leading right singular vectors.

    Vectors of a singular value that is zero up to rounding are left out: the outputs do not determine them, and each
    vector that is added counts as much as any other.

    Args:
        total: (m, m) float64, changed in place.
        outputs: (tokens, m), any float dtype.
        rank: r, how many vectors V has at most.
    """
    wide = outputs if outputs.dtype == torch.float64 else outputs.float()
    _, values, right = _svd(wide)
    values, right = values[:rank], right[:rank]
    determined = values > max(outputs.shape) * torch.finfo(wide.dtype).eps * values[:1]
    leading = right[determined].to(total)
    total += leading.T @ leading


def leading_subspace(projectors: Tensor, rank: int) -> Tensor:
    """Return the principal subspace of all V of a sum of ``V V^T``, (m, rank), orthonormal, by falling importance.

    Args:
        projectors: (m, m) float64, from :func:`add_projector`; sums add over sequences, so that this is the exact
            principal subspace that an incremental PCA is to find. The weight becomes ``Q Q^T W`` with this Q. The
            published code computes something else: it centres the vectors, forgets what is beyond r after each
            sequence, takes them from outputs that are truncated already, and counts the last component half.
        rank: r.
    """
    vectors: Tensor = torch.linalg.eigh(projectors)[1]
    return vectors.flip(1)[:, :rank]


def _svd(matrices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the thin SVD; in float64 where float32 does not converge."""
    left: Tensor
    values: Tensor
    right: Tensor
    try:
        left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # not every RuntimeError: lack of memory is one
        left, values, right = torch.linalg.svd(matrices.double(), full_matrices=False)
    return left.to(matrices), values.to(matrices), right.to(matrices)
