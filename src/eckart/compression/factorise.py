"""Replaces the linears of one group by factors, from the moments of their input."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from eckart.blocks.discovery import Group, LinearRef
from eckart.blocks.onload import OnloadedModule
from eckart.compression.plan import Plan
from eckart.compression.records import LayerRecord, thin_spectrum
from eckart.errors import NonFiniteError
from eckart.layers import FactoredLinear, Fit, QuantizedLinear, bias_vector, weight_matrix
from eckart.maths.lowrank import Solution, Whitening, least_squares
from eckart.maths.moments import Moments, ResidualMoments, relative_error
from eckart.methods.objectives import TargetMoments
from eckart.methods.recipe import Recipe

Components = Callable[[str], tuple[Tensor, Tensor, Tensor]]
"""Gives basis and dual (m, p) of a linear, by its path, and its singular values (p,)."""


@dataclass(frozen=True)
class Factoriser:
    """Solves the equation for the linears of a model.

    Attributes:
        recipe: its objective says what is minimised.
        plan: the ranks.
        device: where float64 factorisations run.
        metrics: second moment (m, m) of each linear's output gradients, by path, if the objective has an output metric.
        components: of linears whose equation is solved already; None if it is not.
        spectra: of the layers that were replaced so far, by path, as :func:`eckart.compression.records.thin_spectrum`
            gives them; of those only whose components have singular values.
    """

    recipe: Recipe
    plan: Plan
    device: torch.device
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
    components: Components | None = None
    spectra: dict[str, Tensor] = field(default_factory=dict)

    def replace_group(
        self,
        onloaded: OnloadedModule,
        group: Group,
        moments: Moments | None,
        output_energies: Mapping[LinearRef, float],
        projectors: Mapping[LinearRef, Tensor],
    ) -> list[LayerRecord]:
        """Replace the linears of ``group`` that have a rank, and return a record of each of its linears.

        Args:
            onloaded: the block.
            group: of the block.
            moments: of the group's inputs; None if the objective looks at no data.
            output_energies: ``||W X||^2`` of each linear in the original model, if both models' inputs are observed.
            projectors: on the leading output directions of each linear, (m, m), if the objective observes outputs.

        Raises:
            NonFiniteError: a weight or an input is NaN or infinite.
        """
        if moments is not None:
            moments.check_finite(*(ref.path for ref in group.linears))
        whitening = None
        changes = any(self.recipe.layout.changes(self.plan.ranks[ref.path]) for ref in group.linears)
        if changes and self.components is None:
            whitening = self.recipe.objective.whitening(moments, group.linears[0].in_features, self.device)
        return [
            self._replace_linear(onloaded, ref, moments, whitening, output_energies.get(ref, 0.0), projectors.get(ref))
            for ref in group.linears
        ]

    def _replace_linear(
        self,
        onloaded: OnloadedModule,
        ref: LinearRef,
        moments: Moments | None,
        whitening: Whitening | None,
        output_energy: float,
        projectors: Tensor | None,
    ) -> LayerRecord:
        linear = onloaded.module.get_submodule(ref.name)
        rank = self.plan.ranks[ref.path]
        weight = weight_matrix(linear).detach().to(self.device, torch.float64)
        if not torch.isfinite(weight).all():
            raise NonFiniteError(f"The weight of {ref.path} is NaN or infinite. The model is not usable as it is.")
        original = onloaded.originals.get(ref.name, weight).to(weight)
        product, constant = weight, None
        if self.recipe.layout.changes(rank):
            stored = onloaded.dtype(f"{ref.name}.weight")
            metric = None if rank is None else self._metric_root(ref.path, weight.device)
            residual = None if moments is None or ref.residual is None else moments.residuals.get(ref.residual)

            def keep_spectrum(solution: Solution) -> None:
                if rank is not None and not self.recipe.objective.observes_outputs:
                    self.spectra[ref.path] = thin_spectrum(solution.singular_values, rank)

            layer = self.layer(
                linear,
                weight,
                moments,
                whitening,
                rank,
                stored,
                metric=metric,
                projectors=projectors,
                residual=residual,
                solution=self._known_solution(ref.path, weight),
                on_solution=keep_spectrum,
            )
            # The next layers see the numbers that will be stored, not those before rounding.
            onloaded.replace(ref.name, layer)
            product = layer.product().to(weight.device)
            if isinstance(layer, FactoredLinear) and self.recipe.layout.affine:
                constant = added_bias(linear, layer).to(weight)
        return LayerRecord(
            path=ref.path,
            out_features=ref.out_features,
            in_features=ref.in_features,
            rank=rank,
            bytes=self.recipe.layout.beside_bias(ref.has_bias).bytes(*ref.shape, rank),
            # What is lost counts from the model as it was, also where other weights are factored.
            error=relative_error(original, product, moments, output_energy, constant),
            unresolved=self._unresolved(weight, moments, whitening, output_energy),
        )

    def layer(
        self,
        linear: nn.Module,
        weight: Tensor,
        moments: Moments | None,
        whitening: Whitening | None,
        rank: int | None,
        stored: torch.dtype,
        *,
        metric: Whitening | None = None,
        projectors: Tensor | None = None,
        residual: ResidualMoments | None = None,
        solution: Solution | None = None,
        on_solution: Callable[[Solution], None] = lambda solution: None,
    ) -> FactoredLinear | QuantizedLinear:
        """Return the layer that takes the place of a linear.

        Args:
            linear: gives its bias, device and dtype.
            weight: of it, (m, n) float64.
            moments: of its inputs.
            whitening: what the objective made of them; None if the solution is known.
            rank: None for a weight that is not factored, and yet stored in another precision.
            stored: dtype of 16-bit numbers.
            metric: the root of the output metric; None for the identity.
            projectors: on the leading output directions, (m, m), if the objective observes outputs.
            residual: of the residual stream that its output is added to, if the objective looks at it.
            solution: of the equation, if it is known already.
            on_solution: is called with the equation's solution for every rank, if it is solved as a whole.
        """
        layout, objective = self.recipe.layout, self.recipe.objective
        if whitening is None:
            assert moments is not None
            inputs: Whitening | Tensor = moments.second.to(weight)
        else:
            inputs = whitening
        if rank is None:
            return layout.whole(linear, weight, stored, Fit(weight, inputs))
        if layout.structure.adds_to_base:  # what is of low rank is known only when the base is
            assert whitening is not None
            ref = TargetMoments()
            if moments is not None:
                ref = objective.target(weight, moments, whitening, rank, residual)
            fit = Fit(least_squares(whitening, ref.cross, weight), whitening, metric)
            return layout.fitted(linear, rank, stored, replace(fit, constant=_constant(ref.mean, moments)))
        if solution is None:
            assert whitening is not None
            solution = objective.solution(
                weight, moments, whitening, rank, metric=metric, projectors=projectors, residual=residual
            )
        on_solution(solution)
        fit = Fit(solution.least_squares, inputs, metric, _constant(solution.target_mean, moments))
        tokens = moments.tokens if moments is not None and objective.needs_data else 1
        return layout.factored(linear, *layout.structure.truncated(solution, rank, tokens), stored, fit)

    def _unresolved(
        self, weight: Tensor, moments: Moments | None, whitening: Whitening | None, output_energy: float
    ) -> float:
        """Return the share of the outputs' energy that may lie where inputs cannot be told from rounding."""
        if moments is None or whitening is None or not output_energy > 0:
            return 0.0
        return min(1.0, self.recipe.objective.unresolved(weight, moments, whitening) / output_energy)

    def _known_solution(self, path: str, weight: Tensor) -> Solution | None:
        if self.components is None:
            return None
        basis, dual, singular_values = (tensor.to(weight) for tensor in self.components(path))
        return Solution(basis, dual, singular_values, weight)

    def _metric_root(self, path: str, device: torch.device) -> Whitening | None:
        chosen = self.recipe.objective.output_metric
        return None if chosen is None else chosen.root(self.metrics[path].to(device, torch.float64))


def _constant(target_mean: Tensor | None, moments: Moments | None) -> Callable[[Tensor], Tensor] | None:
    """Return what gives the best constant beside a weight, if the objective has one."""
    if target_mean is None or moments is None:
        return None
    mean = moments.mean
    return lambda product: target_mean - product.to(mean) @ mean


def added_bias(linear: nn.Module, layer: FactoredLinear) -> Tensor:
    """Return by how much the bias of a layer is another one than that of the linear it replaced, (m,) float64."""
    now, before = layer.dense_bias(), bias_vector(linear)
    assert now is not None
    return now.detach().double() - (0 if before is None else before.detach().double())
