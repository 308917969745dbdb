"""Replaces the linears of one group by factors, from the moments of their input or from what was kept of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from eckart.blocks.block import Block, Group, LinearRef
from eckart.blocks.onload import OnloadedModule
from eckart.blocks.owners import own_of
from eckart.compression.drift import Outputs
from eckart.compression.plan import Plan
from eckart.compression.records import LayerRecord, thin_spectrum
from eckart.compression.refit_runs import refit_runs
from eckart.compression.sketched import SketchedSolver, compared_layers
from eckart.errors import NonFiniteError
from eckart.layers import FactoredLinear, QuantizedLinear, bias_vector, weight_matrix
from eckart.maths.lowrank import Solution, Solve, least_squares
from eckart.maths.moments import Moments, ResidualMoments, relative_error
from eckart.maths.shared_basis import relative_error_of_runs
from eckart.maths.whitening import OutputRoot, Whitening
from eckart.methods.layout import Layout
from eckart.methods.objectives import InputSource, TargetMoments
from eckart.methods.recipe import Recipe
from eckart.methods.sensitivity.measurements import Measurements
from eckart.methods.structure.fitting import Fit

Components = Callable[[str], tuple[Tensor, Tensor, Tensor]]
"""Gives basis and dual (m, p) of a linear, by its path, and its singular values (p,)."""


@dataclass(frozen=True)
class InputStatistics:
    """What is known of the inputs that linears share.

    Attributes:
        moments: sums over the tokens; None if the objective looks at no data, or if only what was made of them is kept.
        whitening: what the objective made of them; None if nobody asks for it.
        tokens: over which the sums in the equation are; 1 if it looks at no data.
        mean: (n,) float64, where it is asked for.
    """

    moments: Moments | None
    whitening: Whitening | None
    tokens: float = 1
    mean: Tensor | None = None

    @property
    def is_whole(self) -> bool:
        """Whether the singular values of a solution tell of all outputs ``W Z``, and of nothing else."""
        if self.moments is None or self.whitening is None or self.moments.shift is not None:
            return False
        return self.whitening.is_of(self.moments.second_moment)

    @property
    def for_fit(self) -> Whitening | Tensor:
        """What a fit knows the inputs by: their whitening, or else their second moment, (n, n) float64."""
        if self.whitening is not None:
            return self.whitening
        assert self.moments is not None
        return self.moments.second_moment


@dataclass(frozen=True)
class Factoriser:
    """Solves the equation for the linears of a model.

    Attributes:
        recipe: its objective says what is minimised.
        plan: the ranks.
        device: where float64 factorisations run.
        metrics: second moment (m, m) of each linear's output gradients, by path, if the objective has an output metric.
        components: of linears whose equation is solved already; None if it is not.
        kept: what was kept of the inputs, if no moments will come; the objective's target is then the original output.
        spectra: of the layers that were replaced so far, by path, as :func:`eckart.compression.records.thin_spectrum`
            gives them; of those only whose components all have singular values.
    """

    recipe: Recipe
    plan: Plan
    device: torch.device
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
    components: Components | None = None
    kept: Measurements | None = None
    spectra: dict[str, Tensor] = field(default_factory=dict)

    @cached_property
    def _compared(self) -> frozenset[str]:
        """Paths of the linears that are solved exactly beside a sketch."""
        return compared_layers(self.plan.blocks, self.plan.ranks, self.recipe.solver)

    def sketched(self, path: str, shape: tuple[int, int], rank: int | None) -> SketchedSolver | None:
        """Return what solves the equation of a linear from a sketch; None where it is solved exactly."""
        sketch = None if rank is None else self.recipe.solver.sketch(shape, rank, path)
        return None if sketch is None else SketchedSolver(sketch, path in self._compared)

    def due(self, groups: Collection[Group]) -> list[LinearRef]:
        """Return the linears whose equations are solved with some groups of a block: all of them."""
        return [ref for group in groups for ref in group.linears]

    def owners(self, refs: Sequence[LinearRef]) -> list[int]:
        """Return which process solves the equation of each linear."""
        return own_of(refs)

    def comparable(self, block: Block, outputs: Outputs | None) -> Outputs | None:
        """Return what of the original linears' outputs can be compared with those of the layers: all of it."""
        return outputs

    def finish(self, block: Block) -> None:
        """There is nothing more to do once a block is as it will be."""

    def replace_group(
        self,
        onloaded: OnloadedModule,
        group: Group,
        moments: Moments | None,
        output_energies: Mapping[LinearRef, float],
        projectors: Mapping[LinearRef, Tensor],
        refs: Collection[LinearRef] | None = None,
    ) -> list[LayerRecord]:
        """Replace the linears of ``group`` that have a rank, and return a record of each of its linears.

        Args:
            onloaded: the block.
            group: of the block.
            moments: of the group's inputs; None if the objective looks at no data, or where they are kept.
            output_energies: ``||W X||^2`` of each linear in the original model, if both models' inputs are observed.
            projectors: on the leading output directions of each linear, (m, m), if the objective observes outputs.
            refs: those of its linears that are to be replaced; None for all.

        Raises:
            NonFiniteError: a weight or an input is NaN or infinite.
        """
        if moments is not None:
            moments.check_finite(*(ref.path for ref in group.linears))
        chosen = [ref for ref in group.linears if refs is None or ref in refs]
        changes = any(self.plan.changes(ref.path) for ref in chosen)
        inputs = self._inputs(group, moments) if changes else InputStatistics(moments, None)
        return [
            self._replace_linear(
                onloaded, ref, inputs, output_energies.get(ref, 0.0), projectors.get(ref), group.routed
            )
            for ref in chosen
        ]

    def _inputs(self, group: Group, moments: Moments | None) -> InputStatistics:
        """Return what is known of the inputs of a group, some of whose linears will be replaced."""
        ref = group.linears[0]
        if self.kept is not None:
            pair = self.kept.whitenings.get(ref.path)
            # Where none was kept nobody looks at one, or the objective looks at no data.
            whitening = Whitening.identity(ref.in_features, self.device)
            if pair is not None:
                whitening = Whitening(*(tensor.to(self.device) for tensor in pair))
            mean = self.kept.means[ref.path].to(self.device) if self.recipe.layout.affine else None
            return InputStatistics(None, whitening, self.kept.statistics(ref.path).tokens, mean)
        if moments is not None and not moments.tokens:  # an expert that no token reached: its weight is all there is
            return InputStatistics(None, Whitening.identity(ref.in_features, self.device))
        solved = self.components is not None
        return self.statistics_of(
            moments, None if solved else self.recipe.objective.whitening(moments, ref.in_features, self.device)
        )

    def statistics_of(self, moments: Moments | None, whitening: Whitening | None) -> InputStatistics:
        """Return what is known of inputs by their moments and by what the objective made of them."""
        if moments is None or not self.recipe.objective.needs_data:
            return InputStatistics(moments, whitening)
        mean = moments.mean if self.recipe.layout.affine else None
        return InputStatistics(moments, whitening, moments.tokens, mean)

    def _replace_linear(
        self,
        onloaded: OnloadedModule,
        ref: LinearRef,
        inputs: InputStatistics,
        output_energy: float,
        projectors: Tensor | None,
        routed: bool,
    ) -> LayerRecord:
        linear = onloaded.module.get_submodule(ref.name)
        rank = self.plan.ranks[ref.path]
        weight = weight_matrix(linear).detach().to(self.device, torch.float64)
        if not torch.isfinite(weight.sum()):
            raise NonFiniteError(f"The weight of {ref.path} is NaN or infinite. The model is not usable as it is.")
        original = onloaded.originals.get(ref.name, weight).to(weight)
        if routed and inputs.moments is not None:  # of the tokens that it is handed, and not of those it was
            seen = inputs.moments.second_moment if inputs.moments.original is None else inputs.moments.original
            output_energy = float(((original @ seen) * original).sum())
        product, constant, input_energy, columns = weight, None, None, None
        sketched = self.sketched(ref.path, ref.shape, rank)
        layout = self.plan.layout(ref.path)
        if layout.changes(rank):
            stored = onloaded.dtype(f"{ref.name}.weight")
            solution = None if rank is None else self._known_solution(ref.path, weight, inputs)
            metric = None
            if solution is None and (rank is not None or layout.unfactored_precision.two_sided):
                metric = self._metric_root(ref.path, weight.device)
            residual = None
            if inputs.moments is not None and ref.residual is not None:
                residual = inputs.moments.residuals.get(ref.residual)

            def keep_spectrum(solution: Solution) -> None:
                nonlocal input_energy
                if rank is not None and not self.recipe.objective.observes_outputs:
                    if solution.sketched is None:
                        self.spectra[ref.path] = thin_spectrum(solution.singular_values, rank)
                    if weight is original and metric is None and inputs.is_whole:
                        input_energy = float(solution.energy)

            layer = self.layer(
                linear,
                weight,
                inputs,
                rank,
                stored,
                layout=layout,
                metric=metric,
                projectors=projectors,
                residual=residual,
                solution=solution,
                solver=sketched,
                on_solution=keep_spectrum,
            )
            # The next layers see the numbers that will be stored, not those before rounding.
            onloaded.replace(ref.name, layer)
            product = layer.dense_weight().to(weight.device)
            if isinstance(layer, FactoredLinear):
                rank, columns = layer.rank, layout.structure.columns_of(layer)
                if self.recipe.layout.affine:
                    constant = added_bias(linear, layer).to(weight)
        return LayerRecord(
            path=ref.path,
            out_features=ref.out_features,
            in_features=ref.in_features,
            rank=rank,
            bytes=layout.with_columns(columns).beside_bias(ref.has_bias).bytes(*ref.shape, rank),
            # What is lost counts from the model as it was, also where other weights are factored.
            error=_error(original, product, inputs.moments, output_energy, constant, input_energy),
            unresolved=self._unresolved(weight, inputs, output_energy),
            sketch=None if sketched is None else sketched.record,
            base=self.plan.bases.get(ref.path),
            columns=columns,
            sparsity=self.plan.sparsities.get(ref.path),
        )

    def layer(
        self,
        linear: nn.Module,
        weight: Tensor,
        inputs: InputStatistics,
        rank: int | None,
        stored: torch.dtype,
        *,
        layout: Layout | None = None,
        metric: OutputRoot | None = None,
        projectors: Tensor | None = None,
        residual: ResidualMoments | None = None,
        solution: Solution | None = None,
        solver: Solve | None = None,
        on_solution: Callable[[Solution], None] = lambda solution: None,
    ) -> FactoredLinear | QuantizedLinear:
        """Return the layer that takes the place of a linear.

        Args:
            linear: gives its bias, device and dtype.
            weight: of it, (m, n) float64.
            inputs: what is known of its inputs; without their whitening if the solution is known.
            rank: None for a weight that is not factored, and yet stored in another precision.
            stored: dtype of 16-bit numbers.
            layout: how it is stored; None for that of the recipe.
            metric: the root of the output metric; None for the identity.
            projectors: on the leading output directions, (m, m), if the objective observes outputs.
            residual: of the residual stream that its output is added to, if the objective looks at it.
            solution: of the equation, if it is known already.
            solver: solves it; None to solve it exactly.
            on_solution: is called with the equation's solution for every rank, if it is solved as a whole.
        """
        layout, objective = layout or self.recipe.layout, self.recipe.objective
        if rank is None:
            target = weight
            if objective.input_source is InputSource.BOTH and layout.unfactored_precision.feeds_back:
                target = self._least_squares(weight, inputs, min(weight.shape), residual)
            return layout.unfactored(linear, target, stored, Fit(target, inputs.for_fit, metric))
        if layout.structure.fits_itself:  # such as where what is of low rank is known only when a base is
            assert inputs.whitening is not None
            wanted = TargetMoments(mean=self._kept_target_mean(weight, inputs))
            if inputs.moments is not None:
                wanted = objective.target(weight, inputs.moments, inputs.whitening, rank, residual)
            least = least_squares(inputs.whitening, wanted.cross, weight)
            fit = Fit(least, inputs.whitening, metric, _constant(wanted.mean, inputs), solver)
            return layout.fitted(linear, rank, stored, fit)
        if solution is None:
            assert inputs.whitening is not None
            # Objectives of others that give a solution of their own need not know of a solver.
            solve = objective.solution if solver is None else partial(objective.solution, solver=solver)
            solution = solve(
                weight, inputs.moments, inputs.whitening, rank, metric=metric, projectors=projectors, residual=residual
            )
        on_solution(solution)
        fit = Fit(solution.least_squares, inputs.for_fit, metric, _constant(solution.target_mean, inputs))
        second, first = layout.structure.fitter.truncated(solution, rank, inputs.tokens)
        if inputs.moments is not None and inputs.moments.runs:
            second, constant = refit_runs(objective, weight, second, first, inputs.moments)
            fit = replace(fit, target=second @ first, constant=constant)
        return layout.factored(linear, second, first, stored, fit)

    def _least_squares(
        self, weight: Tensor, inputs: InputStatistics, rank: int, residual: ResidualMoments | None
    ) -> Tensor:
        """Return the weight of any rank, (m, n), that gives on the compressed model's inputs what is aimed at."""
        if inputs.moments is None or inputs.whitening is None:
            return weight
        target = self.recipe.objective.target(weight, inputs.moments, inputs.whitening, rank, residual)
        return least_squares(inputs.whitening, target.cross, weight)

    def _unresolved(self, weight: Tensor, inputs: InputStatistics, output_energy: float) -> float:
        """Return the share of the outputs' energy that may lie where inputs cannot be told from rounding."""
        if inputs.moments is None or inputs.whitening is None or not output_energy > 0:
            return 0.0
        return min(1.0, self.recipe.objective.unresolved(weight, inputs.moments, inputs.whitening) / output_energy)

    def _known_solution(self, path: str, weight: Tensor, inputs: InputStatistics) -> Solution | None:
        """Return the solution of a linear whose components are known."""
        if self.components is None or self.recipe.structure.fits_itself:
            return None
        basis, dual, singular_values = (tensor.to(weight) for tensor in self.components(path))
        # The equation was solved before the walk: what is aimed at are the outputs of the original model.
        mean = None if inputs.mean is None else weight @ inputs.mean
        return Solution(basis, dual, singular_values, weight, mean)

    def _kept_target_mean(self, weight: Tensor, inputs: InputStatistics) -> Tensor | None:
        """Return the mean of the original outputs, (m,), where no moments say what the target is."""
        return None if inputs.moments is not None or inputs.mean is None else weight @ inputs.mean

    def _metric_root(self, path: str, device: torch.device) -> OutputRoot | None:
        chosen = self.recipe.objective.output_metric
        return None if chosen is None else chosen.root(self.metrics[path].to(device, torch.float64))


def _error(
    weight: Tensor,
    product: Tensor,
    moments: Moments | None,
    output_energy: float,
    constant: Tensor | None,
    input_energy: float | None,
) -> float:
    if moments is not None and moments.runs:
        return relative_error_of_runs(weight, product, moments, constant)
    return relative_error(weight, product, moments, output_energy, constant, input_energy)


def _constant(target_mean: Tensor | None, inputs: InputStatistics) -> Callable[[Tensor], Tensor] | None:
    """Return what gives the best constant beside a weight, if the objective has one."""
    mean = inputs.mean
    if target_mean is None or mean is None:
        return None
    return lambda product: target_mean - product.to(mean) @ mean


def added_bias(linear: nn.Module, layer: FactoredLinear) -> Tensor:
    """Return by how much the bias of a layer is another one than that of the linear it replaced, (m,) float64."""
    now, before = layer.dense_bias(), bias_vector(linear)
    assert now is not None
    return now.detach().double() - (0 if before is None else before.detach().double())
