"""The state of one dense block's training towards low rank: steps, and what the block loses once it is cut."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.func import functional_call

from eckart import processes
from eckart.blocks.passes import BlockPass
from eckart.layers import weight_matrix
from eckart.methods.preparation.penalty import Penalty
from eckart.methods.preparation.record import TailRecord
from eckart.methods.preparation.weights import PreparedWeight, WeightToPrepare
from eckart.methods.refinement.block_training import BlockTraining, Sequences
from eckart.methods.training import TrainingConfig
from eckart.methods.training.gradients import add_gradients


class PreparationTraining(BlockTraining):
    """Trains some weights of a dense block; its parameters are float32 until :meth:`finish`.

    Args:
        config: of the training.
        penalty: what draws the whitened weights to low rank.
        run: the block, onloaded, and how the original model calls it.
        weights: that are trained.
        sequences: inputs and outputs in the original model.
        compute: dtype of matrix products.
        white: whether steps are taken in the whitened weights.
    """

    def __init__(
        self,
        config: TrainingConfig,
        penalty: Penalty,
        run: BlockPass,
        weights: Sequence[WeightToPrepare],
        sequences: Sequences,
        compute: torch.dtype,
        *,
        white: bool,
    ) -> None:
        linears = {wanted.name: run.module.get_submodule(wanted.name) for wanted in weights}
        chosen = {id(linear.weight) for linear in linears.values()}
        self.came = {name: p.data for name, p in run.module.named_parameters()}
        self.names = {id(p): name for name, p in run.module.named_parameters() if id(p) in chosen}
        fixed = frozenset(self.came) - frozenset(self.names.values())
        super().__init__(config, replace(run, fixed=fixed), sequences, {}, compute)
        for parameter in self.parameters:
            parameter.data = parameter.data.clone()  # a tensor of its own: that of the model is given back
        self.penalty, self.steps = penalty, 0
        self.weights = [PreparedWeight(wanted, linears[wanted.name], white=white) for wanted in weights]
        self.optimiser = config.optimiser([weight.change for weight in self.weights])
        for weight in self.weights:
            weight.begin()
        self.scale = self.unit(torch.arange(len(sequences))) / len(sequences)
        self.shares: list[list[float]] = []  # that are left out, in each state that was looked at
        self.kept: list[Tensor] = []
        self.kept_shares: list[float] | None = None

    def step(self, batch: Tensor, learning_rate: float) -> float:
        """Take one optimiser step on the sequences ``batch``, and return the dense block's squared error before it."""
        if not self.is_finite():  # what has no singular values has no penalty either
            return math.nan
        error = 0.0
        for part in self.sequences.parts(batch):
            squares = self._squared_error(part, self.block)
            (squares / (self.scale * len(batch))).backward()  # type: ignore[no-untyped-call]
            error += float(squares.detach())
        error = add_gradients(self.parameters, error)
        share = self.penalty.at(self.steps) / len(self.weights)
        for weight in self.weights:  # in each process alike, behind the sum over processes
            weight.add_gradient(self.penalty, self.steps, share)
        self.config.step(self.optimiser, learning_rate)
        for weight in self.weights:
            weight.put()
        self.steps += 1
        return error

    def loss(self, sequences: Tensor) -> float:
        """Return the squared error of the block with its weights cut to their ranks."""
        if not self.is_finite():
            return math.nan
        state: dict[str, Tensor] = {}
        self.shares.append([])
        for weight in self.weights:
            parameter: Tensor = weight.linear.weight  # type: ignore[assignment]
            matrix = weight_matrix(weight.linear)
            product, left_out = weight.cut(matrix.detach())
            self.shares[-1].append(left_out)
            cut = product.to(parameter)
            state[self.names[id(parameter)]] = cut if matrix is parameter else cut.T

        def block(*args: object, **kwargs: object) -> object:
            return functional_call(self.block, state, args, kwargs)

        with torch.no_grad():
            error = sum(float(self._squared_error(part, block)) for part in self.sequences.parts(sequences))
        return processes.total(error)[0]

    def is_finite(self) -> bool:
        """Return whether no weight is NaN or infinite."""
        finite = all(bool(torch.isfinite(parameter).all()) for parameter in self.parameters)
        return processes.total(finite)[0] == processes.size()

    def snapshot(self) -> None:
        """Remember the present weights; the original ones before the first step."""
        self.kept = [weight_matrix(w.linear).detach().clone() for w in self.weights] if self.steps else []
        self.kept_shares = self.shares[-1] if self.shares else None

    def finish(self) -> None:
        """Leave the block with the weights that were remembered last, otherwise as it came."""
        matrices = processes.give_tensors({str(number): matrix for number, matrix in enumerate(self.kept)})
        for name, parameter in self.block.named_parameters():
            parameter.grad = None
            parameter.data = self.came[name]
            parameter.requires_grad_(self.before[name][1])
        if not self.kept:
            return
        for number, weight in enumerate(self.weights):
            stored: Tensor = weight.linear.weight  # type: ignore[assignment]
            matrix = matrices[str(number)].to(stored.device, stored.dtype)
            stored.data = matrix if weight_matrix(weight.linear) is stored else matrix.T

    def tails(self) -> dict[str, TailRecord]:
        """Return what each weight left out before the training and in the state that was kept, by path."""
        first = self.shares[0] if self.shares else [0.0] * len(self.weights)
        last = self.kept_shares or first
        return {
            weight.wanted.path: TailRecord(before=before, after=after)
            for weight, before, after in zip(self.weights, first, last, strict=True)
        }
