"""Which recipes give factors whose components have an order, and what each component is worth."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from eckart.compression.records import LayerRecord
from eckart.compression.result import CompressionResult
from eckart.errors import RecipeError
from eckart.maths.nested import ENERGY, NATS, NestedOrder
from eckart.methods.allocation.base import relative_energy
from eckart.methods.recipe import Recipe
from eckart.methods.sensitivity.layer_statistics import LayerStatistics


def check_nested(recipe: Recipe) -> None:
    """Raise unless a layer of a lower rank is what the first components of a higher one are.

    Raises:
        RecipeError: says which choice makes the numbers of a layer depend on its rank.
    """
    for reason in _reasons(recipe):
        raise RecipeError(
            f"With nested ranks (--nested) the first components of a layer are its best weight of a lower rank; found "
            f"{reason}. Use a recipe that solves once and trains nothing, such as eckart-fast with "
            "structure=two-factor, or svd-llm; or compress to each size."
        )


def _reasons(recipe: Recipe) -> Iterator[str]:
    """Yield the choices with which that is not so; they are asked, and not told apart by their classes."""
    objective, allocation, structure = recipe.objective, recipe.allocation, recipe.structure
    if recipe.pairs.narrows:
        yield f"pairs={recipe.pairs.name}, which factors nothing"
    if not structure.nests:
        yield f"structure {structure.name!r}, whose layers do not hold components one by one"
    if recipe.layout.looks_at_inputs:
        yield (
            "numbers that make up for what the others lose (few bits, or objective.affine=true), which is another "
            "amount at each rank"
        )
    if objective.observes_outputs:
        yield f"objective {objective.name!r}, which solves no equation"
    if objective.follows_rank:
        yield f"objective {objective.name!r}, whose target is another one at each rank"
    if allocation.changes_weights:
        yield f"allocation {allocation.label}, which changes weights for one size"
    if recipe.sharing.fuses_experts or recipe.sharing.measures:
        yield f"sharing {recipe.sharing.name!r}, which fits the rows of each expert to the rank"
    if recipe.solver.sketches:
        yield f"solver {recipe.solver.name!r}, which finds components for one rank"
    if recipe.preparation.training is not None:
        yield f"preparation {recipe.preparation.name!r}, which draws weights to one rank"
    for name in ("refinement", "distillation"):
        if getattr(recipe, name).training is not None:
            yield f"a {name}, which trains all components together"


def order_of(report: CompressionResult, statistics: Iterable[LayerStatistics], multiple: int) -> NestedOrder:
    """Return the order of the components of a model, :attr:`NestedOrder.sizes` left out.

    The predicted rise of the loss orders them where the allocation has measured the curvature of all layers
    (:class:`eckart.methods.allocation.Curvature`). Elsewhere the share of its own layer's output energy does.

    Args:
        report: of the run.
        statistics: of the layers, as the allocation has seen them.
        multiple: ranks are multiples of it.
    """
    known = {linear.path: linear for linear in statistics}
    layers = [layer for layer in report.layers if layer.rank]
    has_curvature = all(layer.path in known and known[layer.path].curvature is not None for layer in layers)
    losses: dict[str, Tensor] = {}
    lost = 0.0
    for layer in layers:
        found = known.get(layer.path)
        if has_curvature and found is not None and found.curvature is not None:
            worth = found.curvature
        elif found is not None and found.energy is not None:
            worth = relative_energy(found)
        else:
            worth = _energies(report.spectra[layer.path])
        worth = worth.double().cpu().clamp(min=0)
        losses[layer.path] = worth[: layer.rank].float()
        lost += float(worth[layer.rank :].sum())
    return NestedOrder(
        losses=losses,
        sizes={},
        bytes={layer.path: _bytes_of_one(layer) for layer in layers},
        dense_bytes=sum(layer.dense_bytes for layer in report.layers),
        unfactored_bytes=sum(layer.bytes for layer in report.layers if not layer.rank),
        lost=lost,
        multiple=multiple,
        unit=NATS if has_curvature else ENERGY,
    )


def _bytes_of_one(layer: LayerRecord) -> int:
    assert layer.rank
    return layer.bytes // layer.rank


def _energies(spectrum: Tensor) -> Tensor:
    """Return the share of the energy that each component has, (p,), between points of a spectrum by straight lines.

    Args:
        spectrum: (2, points), numbers of some components, from 1 to p, and their singular values; see
            :func:`eckart.compression.records.thin_spectrum`.
    """
    places, values = spectrum.double()
    wanted = torch.arange(1, int(places[-1]) + 1, dtype=torch.float64)
    right = torch.searchsorted(places, wanted).clamp(1, max(1, len(places) - 1))
    if len(places) == 1:
        return torch.ones(1, dtype=torch.float64)
    share = (wanted - places[right - 1]) / (places[right] - places[right - 1])
    energies = torch.lerp(values[right - 1], values[right], share).square()
    total = energies.sum()
    return energies / total if total > 0 else energies
