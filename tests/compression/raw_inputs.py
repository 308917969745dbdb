"""Two linears with their raw inputs in two models, and the equation solved by a QR and an SVD of those."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from eckart.blocks.block import Group, LinearRef
from eckart.blocks.onload import OnloadedModule, named_tensors
from eckart.compression.factorise import Factoriser
from eckart.compression.plan import Plan
from eckart.compression.records import LayerRecord
from eckart.maths.moments import Moments, ResidualMoments
from eckart.maths.soft_truncation import add_projector
from eckart.methods.objectives import (
    ActivationScaled,
    Blended,
    InputAware,
    Objective,
    ShiftAware,
    Weight,
)
from eckart.methods.precision import Bits4, Bits8
from eckart.methods.recipe import Recipe
from eckart.methods.structure import Structure, TwoFactor

CPU = torch.device("cpu")
PLACE = "front"


@dataclass
class Data:
    """Two linears that share an input, and what they are handed in both models.

    Attributes:
        module: holds ``one``, with a bias, and ``other``, whose weight is stored as its transpose.
        x: inputs in the original model, (n, tokens).
        z: in the compressed one.
        apart: difference of the residual streams that the outputs are added to, (m, tokens).
    """

    module: nn.Module
    x: Tensor
    z: Tensor
    apart: Tensor

    @staticmethod
    def random(seed: int = 0, m: int = 7, n: int = 6, tokens: int = 60) -> Data:
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        module: Any = nn.Module()
        module.one, module.other = nn.Linear(n, m).double(), Conv1D(m, n).double()
        for linear, transposed in ((module.one, False), (module.other, True)):
            linear.weight.data = normal(n, m) if transposed else normal(m, n)
            linear.bias.data = normal(m)
        x = normal(n, n) @ normal(n, tokens) + 2 * normal(n, 1)
        return Data(module, x, x + 0.4 * normal(n, tokens) + normal(n, 1), 1 + normal(m, tokens))

    def weight(self, name: str) -> Tensor:
        """The weight that is not replaced yet, (m, n)."""
        weight = self.module.get_submodule(name).get_parameter("weight").detach().clone()
        return weight.T if name == "other" else weight

    def ref(self, name: str, residual: str | None = None) -> LinearRef:
        m, n = self.weight(name).shape
        return LinearRef(name, f"block.{name}", m, n, has_bias=True, residual=residual)

    def onloaded(self, dtype: torch.dtype = torch.float64) -> OnloadedModule:
        return OnloadedModule(self.module, {name: (CPU, dtype) for name, _ in named_tensors(self.module)})

    def moments(self, objective: Objective) -> Moments | None:
        source = objective.input_source.name
        if source == "NONE":
            return None
        z = self.x if source == "ORIGINAL" else self.z
        both = source == "BOTH"
        return Moments(
            z @ z.T,
            (self.x - z) @ z.T if both else None,
            z.abs().sum(dim=1),
            z.shape[1],
            z.sum(dim=1),
            self.x.sum(dim=1) if both else None,
            {PLACE: ResidualMoments(self.apart @ z.T, self.apart.sum(dim=1))} if both else {},
        )

    def run(
        self,
        objective: Objective,
        ranks: Mapping[str, int | None],
        *,
        structure: Structure | None = None,
        precision: Bits8 | Bits4 | None = None,
        dtype: torch.dtype = torch.float64,
        residual: str | None = None,
        onloaded: OnloadedModule | None = None,
        **options: Any,
    ) -> tuple[dict[str, LayerRecord], Factoriser]:
        """Replace both linears as one group, or those that have a rank named."""
        recipe = Recipe(
            objective=objective,
            structure=structure or TwoFactor(),
            **({} if precision is None else {"precision": precision}),
        )
        refs = [self.ref(name, residual) for name in ranks]
        plan = Plan(recipe, 0.5, [], {ref.path: ranks[ref.name] for ref in refs}, 0)
        energies = {ref: float((self.weight(ref.name) @ self.x).square().sum()) for ref in refs}
        observed = refs if objective.observes_outputs else []
        projectors = {ref: self.projector(ref.name, ranks[ref.name]) for ref in observed}
        factoriser = Factoriser(recipe, plan, CPU, **options)
        records = factoriser.replace_group(
            onloaded or self.onloaded(dtype), Group(tuple(refs), True), self.moments(objective), energies, projectors
        )
        return {record.path.removeprefix("block."): record for record in records}, factoriser

    def projector(self, name: str, rank: int | None) -> Tensor:
        """Sums of projectors on the outputs of six sequences."""
        m = len(self.weight(name))
        total = torch.zeros(m, m, dtype=torch.float64)
        for sequence in (self.weight(name) @ self.x).T.split(10):
            add_projector(total, sequence, rank or m)
        return total


def outputs(module: nn.Module, inputs: Tensor) -> Tensor:
    """Run a layer on inputs (n, tokens)."""
    with torch.no_grad():
        result: Tensor = module(inputs.T).T
    return result


def regression(targets: Tensor, inputs: Tensor, rank: int) -> Tensor:
    """Return the best weight of a rank: a least-squares fit, and the leading directions of what it fits."""
    basis, triangle = torch.linalg.qr(inputs.T)
    left, values, right = torch.linalg.svd(targets @ basis, full_matrices=False)
    kept = (left[:, :rank] * values[:rank]) @ right[:rank]
    result: Tensor = torch.linalg.solve_triangular(triangle, kept.T, upper=True).T
    return result


def streams(objective: Objective, weight: Tensor, data: Data, residual: bool = False) -> tuple[Tensor, Tensor]:
    """Return the inputs and the target outputs that an objective is about."""
    if isinstance(objective, Weight):
        eye = torch.eye(weight.shape[1], dtype=torch.float64)
        return eye, weight
    if isinstance(objective, ActivationScaled):
        scale = (data.x.abs().mean(dim=1) ** objective.alpha + 1e-6).diag()
        return scale, weight @ scale
    if isinstance(objective, InputAware):
        return data.x, weight @ data.x
    if isinstance(objective, ShiftAware):
        return data.z, weight @ data.z
    blend = objective.beta_min if isinstance(objective, Blended) else 1.0
    target = weight @ (blend * data.x + (1 - blend) * data.z)
    return data.z, target + (objective.residual_share * data.apart if residual else 0)
