"""Which coefficients stay, and the atoms that they combine (ROCKET, arXiv 2602.11008; COMPOT, arXiv 2602.15200)."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from eckart.layers import DictionaryLinear, dense_weight_of, fill_child
from eckart.maths.dictionary import (
    interleaved,
    largest_in_rows,
    largest_two_of_four,
    largest_with_spare,
    nearest_orthonormal,
    refit_coefficients,
    refit_dictionary,
    ridge_dictionary,
)
from eckart.maths.lowrank import solve
from eckart.maths.sparsity import numbers_per_row
from eckart.methods.precision import Precision
from eckart.methods.structure.fitting.base import Laid, TargetFitter, set_bias
from eckart.methods.structure.fitting.fit import Fit


class LaidDictionary(Laid, Protocol):
    """What is asked of :class:`eckart.methods.structure.Dictionary`, whose fields these are."""

    @property
    def method(self) -> str:
        """How coefficients are found."""
        ...

    @property
    def sparsity(self) -> float:
        """Numbers for one that is there."""
        ...

    @property
    def pattern(self) -> str:
        """Where numbers may be."""
        ...

    @property
    def spare(self) -> float:
        """Share of the numbers that go to the largest of all rows."""
        ...

    @property
    def plain(self) -> float:
        """Exponent of an atom's size in plain space."""
        ...

    @property
    def rounds(self) -> int:
        """Of COMPOT."""
        ...

    @property
    def refits(self) -> int:
        """How often both parts are fitted again."""
        ...


class DictionaryFitter(TargetFitter[DictionaryLinear]):
    """See :class:`eckart.methods.structure.Dictionary`.

    An output metric counts where atoms are fitted again, and decides whether what was fitted is kept. Which
    coefficients stay is found without it.
    """

    structure: LaidDictionary

    def fitted(
        self, linear: nn.Module, rank: int, stored: torch.dtype | None, precision: Precision, fit: Fit
    ) -> DictionaryLinear:
        """See :meth:`Fitter.fitted`."""
        layer = self.empty_like(linear, rank, precision, fit)
        sparse, mask, atoms = self.start(rank, fit)
        for _ in range(self.structure.refits):
            sparse, atoms = _fitted_again(sparse, mask, atoms, fit)
        sparse, atoms = _balanced(sparse, atoms)
        fill_child(layer.first, atoms, None, stored)
        if self.structure.refits:
            held = dense_weight_of(layer.first).to(atoms)
            again = refit_coefficients(sparse, mask, held, fit.target, fit.second_moment)
            sparse = again if fit.loss(again @ held) < fit.loss(sparse @ held) else sparse
        fill_child(layer.second, sparse, None, stored)
        set_bias(layer, linear, stored, fit)
        return layer

    def product(self, rank: int, fit: Fit) -> Tensor:
        """See :meth:`Fitter.product`; as published."""
        sparse, _, atoms = self.start(rank, fit)
        return sparse @ atoms

    def start(self, atoms: int, fit: Fit) -> tuple[Tensor, Tensor, Tensor]:
        """Return S as published, (m, k), its places, (m, k) bool, and the atoms, (k, n).

        Args:
            atoms: k.
            fit: the target and what its errors cost; its metric is left out.
        """
        solution = (fit.solver or solve)(fit.whitening, None, fit.target, None, atoms)
        left, sizes = solution.basis[:, :atoms], solution.singular_values[:atoms]
        # Row j is the singular vector in plain space, q_j^T R^-1, times its singular value.
        scaled = left.T @ fit.target
        if self.structure.pattern == "2-of-4":
            order = interleaved(atoms).to(left.device)
            left, sizes, scaled = left[:, order], sizes[order], scaled[order]
        if self.structure.method == "rocket":
            return self._rocket(left * sizes, sizes, scaled, fit)
        return self._compot(sizes, scaled, fit)

    def _rocket(self, coefficients: Tensor, sizes: Tensor, scaled: Tensor, fit: Fit) -> tuple[Tensor, Tensor, Tensor]:
        # A direction without a singular value is one that no token has reached, and has coefficients of zero.
        lengths = torch.where(sizes > 0, scaled.norm(dim=1) / sizes, torch.zeros_like(sizes))
        scores = coefficients.abs() * lengths**self.structure.plain
        count = numbers_per_row(len(sizes), self.structure.sparsity)
        if self.structure.pattern == "2-of-4":
            mask = largest_two_of_four(scores)
        else:
            mask = largest_with_spare(scores, count, self.structure.spare)
        sparse = coefficients * mask
        return sparse, mask, ridge_dictionary(sparse, fit.target)

    def _compot(self, sizes: Tensor, scaled: Tensor, fit: Fit) -> tuple[Tensor, Tensor, Tensor]:
        root, count = fit.whitening.root, len(sizes)
        white = fit.target @ root
        # No more rows are orthonormal than tokens span; further atoms stay zero.
        active = min(count, white.shape[1])
        dictionary = nearest_orthonormal((scaled / torch.where(sizes > 0, sizes, 1.0)[:, None])[:active] @ root)
        coefficients, mask = self._largest(white @ dictionary.T, count)
        for _ in range(self.structure.rounds):
            dictionary = nearest_orthonormal(coefficients[:, :active].T @ white)
            coefficients, mask = self._largest(white @ dictionary.T, count)
        atoms = torch.zeros_like(scaled)
        atoms[:active] = dictionary @ fit.whitening.inverse
        return coefficients, mask, atoms

    def _largest(self, coefficients: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Return S, (m, count), with the largest coefficients of each row, and their places."""
        missing = count - coefficients.shape[1]
        coefficients = torch.nn.functional.pad(coefficients, (0, missing))
        if self.structure.pattern == "2-of-4":
            mask = largest_two_of_four(coefficients.abs())
        else:
            mask = largest_in_rows(coefficients.abs(), numbers_per_row(count, self.structure.sparsity))
        return coefficients * mask, mask


def _fitted_again(sparse: Tensor, mask: Tensor, atoms: Tensor, fit: Fit) -> tuple[Tensor, Tensor]:
    """Return coefficients and atoms that lose no more, each fitted for the other."""
    least = fit.loss(sparse @ atoms)
    moved = refit_dictionary(sparse, atoms, fit.target, fit.output_moment)
    if (loss := fit.loss(sparse @ moved)) < least:
        least, atoms = loss, moved
    changed = refit_coefficients(sparse, mask, atoms, fit.target, fit.second_moment)
    return (changed, atoms) if fit.loss(changed @ atoms) < least else (sparse, atoms)


def _balanced(sparse: Tensor, atoms: Tensor) -> tuple[Tensor, Tensor]:
    """Return the same product with columns and atoms of one size, within the range of 16-bit floats."""
    sizes = sparse.norm(dim=0), atoms.norm(dim=1)
    empty = (sizes[0] == 0) | (sizes[1] == 0)
    split = torch.where(empty, torch.ones_like(sizes[0]), sizes[1] / sizes[0]).sqrt()
    return sparse * split, atoms / split[:, None]
