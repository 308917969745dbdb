"""One linear weight that is drawn towards low rank: as it is trained, and as it would be cut."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from eckart.layers import weight_matrix
from eckart.maths.lowrank import minimum_loss, solve
from eckart.maths.whitening import Whitening
from eckart.methods.preparation.penalty import Penalized, Penalty


@dataclass(frozen=True)
class WeightToPrepare:
    """A linear of a block, and what it will be cut by.

    Attributes:
        name: in the block.
        path: in the model.
        rank: that it will get, below min(m, n).
        whitening: root of what the objective makes of its inputs in the original model, ``S = R R^T``, (n, k) float64.
        tokens: over which S is summed.
        metric: root C of the output metric, (m, m) float64; None for the identity.
    """

    name: str
    path: str
    rank: int
    whitening: Whitening
    tokens: float
    metric: Whitening | None = None


class PreparedWeight:
    """A weight ``W = W_0 + D K`` of which D is trained, by the gradients of W and of a penalty of ``M = C^T W L``.

    ``L = R / sqrt(tokens)``, so that ``||M||^2`` is the energy of a token's outputs. K is the identity, or in white
    coordinates the left inverse of L, so that ``W L = W_0 L + D``.

    Args:
        wanted: the linear.
        linear: it, with a float32 weight.
        white: whether D is in white coordinates.
    """

    def __init__(self, wanted: WeightToPrepare, linear: nn.Module, *, white: bool) -> None:
        self.wanted, self.linear = wanted, linear
        self.start = weight_matrix(linear).detach().clone()
        scale = max(wanted.tokens, 1.0) ** 0.5
        self.root = (wanted.whitening.root / scale).to(self.start)
        self.inverse = (wanted.whitening.inverse * scale).to(self.start) if white else None
        self.metric = None if wanted.metric is None else wanted.metric.root.to(self.start)
        # As large as what it is added to, for an optimiser whose steps go by sizes; zero from the first step on.
        self.change = nn.Parameter(self.start @ self.root if white else self.start.clone())
        self.energy = float(self.matrix().double().square().sum()) or 1.0
        self.vectors: Tensor | None = None

    def begin(self) -> None:
        """Let the weight be that of the linear as it came."""
        with torch.no_grad():
            self.change.zero_()

    def matrix(self) -> Tensor:
        """Return M for the present weight, (m, k)."""
        whitened: Tensor = weight_matrix(self.linear).detach() @ self.root
        return whitened if self.metric is None else self.metric.T @ whitened

    def add_gradient(self, penalty: Penalty, step: int, share: float) -> None:
        """Take the gradient of the weight over to D, with that of ``share`` times the penalty.

        Args:
            penalty: of M.
            step: counted from 0.
            share: how much it counts.
        """
        found: Penalized = penalty.of(self.matrix(), self.wanted.rank, self.energy, step, self.vectors)
        self.vectors = found.vectors
        whitened = share * (found.gradient if self.metric is None else self.metric @ found.gradient)
        parameter: Tensor = self.linear.weight  # type: ignore[assignment]
        gradient = parameter.grad
        if gradient is not None and weight_matrix(self.linear) is not parameter:
            gradient = gradient.T  # as GPT-2 stores it
        if self.inverse is None:
            total = whitened @ self.root.T
        else:
            total = whitened
            gradient = None if gradient is None else gradient @ self.inverse.T
        self.change.grad = total if gradient is None else total + gradient
        parameter.grad = None

    def put(self) -> None:
        """Let the linear have the present weight."""
        change = self.change.detach()
        with torch.no_grad():
            weight_matrix(self.linear).copy_(self.start + (change if self.inverse is None else change @ self.inverse))

    def cut(self, weight: Tensor) -> tuple[Tensor, float]:
        """Return the best weight of the rank, (m, n) float64, and the share of ``||M||^2`` that it leaves out.

        Args:
            weight: (m, n).
        """
        whitening, metric = self.wanted.whitening, self.wanted.metric
        solution = solve(whitening, None, weight.to(whitening.root), metric, self.wanted.rank)
        rank, energy = self.wanted.rank, float(solution.energy)
        product = solution.basis[:, :rank] @ (solution.dual[:, :rank].T @ solution.least_squares)
        return product, float(minimum_loss(solution, rank, solution.energy)) / energy if energy > 0 else 0.0
