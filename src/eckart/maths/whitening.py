r"""Square roots of second moments of inputs, and of metrics of outputs.

A second moment of rank k has a root R, (n, k), with ``S = R R^T``. What rounding made of it is dropped: see
:mod:`eckart.maths.lowrank` for what that costs.

Everything here is a pure function of float64 tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

# Eigenvalues of the unit-diagonal second moment below a share of the largest count as zero: what lies below is rounding
# of the sums, which depends on the dtype in which products were summed.
FLOAT32_FLOOR = 1e-7
FLOAT64_FLOOR = 1e-12


class Whitening:
    """A second moment and its square root, ``S = root @ root.T``, of rank k <= n.

    Args:
        root: (n, k) float64.
        inverse: (k, n) float64, the left inverse: ``inverse @ root`` is the identity of size k.
        dropped: (n, n - k) float64, the directions that cannot be told from rounding, scaled so that
            ``||(P - W S) dropped||^2`` is the loss that they would save if their eigenvalues were at the floor; None
            if there are none.
    """

    def __init__(self, root: Tensor, inverse: Tensor, dropped: Tensor | None = None) -> None:
        self._found: tuple[Tensor, Tensor, Tensor | None] | None = (root, inverse, dropped)
        self._find: Callable[[], Whitening] | None = None
        self._second_moment: Tensor | None = None

    @classmethod
    def of(cls, second_moment: Tensor, find: Callable[[], Whitening]) -> Whitening:
        """Return the whitening of S, (n, n) float64, whose root is found when it is first asked for."""
        made = cls.__new__(cls)
        made._found, made._find, made._second_moment = None, find, second_moment
        return made

    @staticmethod
    def identity(size: int, device: torch.device | None = None) -> Whitening:
        """Return the root of the identity: no data, all input directions weigh the same."""
        eye = torch.eye(size, dtype=torch.float64, device=device)
        return Whitening(eye, eye)

    @property
    def root(self) -> Tensor:
        """R, (n, k) float64."""
        return self._all[0]

    @property
    def inverse(self) -> Tensor:
        """Its left inverse, (k, n) float64."""
        return self._all[1]

    @property
    def dropped(self) -> Tensor | None:
        """What rounding hides, as for the class."""
        return self._all[2]

    @property
    def is_factored(self) -> bool:
        """Whether the root is known."""
        return self._found is not None

    @property
    def second_moment(self) -> Tensor:
        """S, (n, n) float64."""
        if self._second_moment is None:
            self._second_moment = self.root @ self.root.T
        return self._second_moment

    def is_of(self, second_moment: Tensor) -> bool:
        """Return whether S is that very tensor."""
        return self._second_moment is second_moment

    @property
    def _all(self) -> tuple[Tensor, Tensor, Tensor | None]:
        if self._found is None:
            assert self._find is not None
            self._found = self._find()._all
        return self._found


@dataclass(frozen=True)
class BlockRoot:
    """A root of an output metric that is zero but for square blocks along its diagonal, all of one size.

    Attributes:
        root: (blocks, size, size) float64.
        inverse: of the blocks.
    """

    root: Tensor
    inverse: Tensor


OutputRoot = Whitening | BlockRoot
"""C of an output metric ``C C^T``, of full rank."""


def blockwise(blocks: Tensor, matrix: Tensor) -> Tensor:
    """Return the product of a matrix (m, m), or of one made of blocks (number, m / number, m / number), and (m, k)."""
    if blocks.ndim == 2:
        return blocks @ matrix
    return (blocks @ matrix.view(len(blocks), -1, matrix.shape[-1])).flatten(0, 1)


def whiten(second_moment: Tensor, removed: Tensor | None = None, floor: float = FLOAT64_FLOOR) -> Whitening:
    """Return what factors a positive semi-definite matrix, dropping what is numerically zero.

    The matrix is first scaled to a unit diagonal: features of language models differ in size by a factor of a
    thousand, and the rounding of a sum of products is relative to the features that made it. Where nothing is to be
    dropped the root is triangular, else it is made of the eigenvectors.

    Args:
        second_moment: (n, n) float64, symmetric; may be singular or zero.
        removed: (n,) float64, if ``removed removed^T`` was subtracted from the sums of products. What rounding left
            behind is as large as it was before, so what counts as zero is told by both.
        floor: share of the largest eigenvalue below which one counts as zero, :data:`FLOAT32_FLOOR` where the sums
            are of float32 products.
    """
    if removed is not None:  # what rounding left behind has no place in S either
        return find_root(second_moment, removed, floor)
    return Whitening.of(second_moment, partial(find_root, second_moment, None, floor))


def find_root(second_moment: Tensor, removed: Tensor | None, floor: float) -> Whitening:
    """Return the root of :func:`whiten`; arguments as there."""
    if removed is None and (regular := triangular_root(second_moment, floor)) is not None:
        return regular
    energies = second_moment.diagonal()
    if removed is not None:
        energies = energies + removed.square()
    scale = energies.clamp_min(0).sqrt()
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    values, vectors = torch.linalg.eigh(second_moment / (scale[:, None] * scale[None, :]))
    largest = values[-1].clamp_min(torch.finfo(values.dtype).tiny)
    if removed is not None:
        # Where all products have one sign, their rounding may have one too, and does not average out.
        largest = torch.maximum(largest, 10 * (removed / scale).square().sum())
    kept = values > floor * largest
    deviations = values[kept].sqrt()
    basis = vectors[:, kept]
    return Whitening(
        root=scale[:, None] * basis * deviations,
        inverse=(basis / deviations).T / scale,
        dropped=None if kept.all() else vectors[:, ~kept] / scale[:, None] / (floor * largest).sqrt(),
    )


def triangular_root(matrix: Tensor, floor: float = 0.0) -> Whitening | None:
    """Return the lower triangular root of a positive definite matrix, in a third of the time of eigenvectors.

    Args:
        matrix: (n, n) float64, symmetric; is scaled to a unit diagonal as in :func:`whiten`.
        floor: share of the largest eigenvalue that all others must surely exceed.

    Returns:
        None if the matrix is not positive definite, or an eigenvalue may be below the floor.
    """
    scale = matrix.diagonal().clamp_min(torch.finfo(matrix.dtype).tiny).sqrt()
    unit = matrix / torch.outer(scale, scale)
    root, failed = torch.linalg.cholesky_ex(unit)
    if failed:
        return None
    inverse = torch.linalg.solve_triangular(
        root, torch.eye(len(root), dtype=root.dtype, device=root.device), upper=False
    )
    # ||root^-1||^2 is the trace of the inverse of ``unit``: at least 1 / the smallest eigenvalue of ``unit``.
    if not floor * unit.norm() * inverse.square().sum() < 1:
        return None
    return Whitening(scale[:, None] * root, inverse / scale)
