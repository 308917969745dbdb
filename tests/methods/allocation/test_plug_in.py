"""Allocators of another package: what they ask for and measure themselves is found, in a run and in a sweep."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import pytest
import torch
from pydantic import Field
from tests.conftest import make_model
from tests.methods.sensitivity.helpers import original_of
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

import eckart
from eckart.blocks.blockwise_model import BlockwiseModel
from eckart.compression.plan import make_plan
from eckart.data.calibration import Calibration
from eckart.errors import CalibrationError
from eckart.layers import weight_matrix
from eckart.methods.allocation import Allocation, Curvature, LayerStatistics, Needs
from eckart.methods.allocation.base import OwnMeasurement, Wanted, gain_per_byte
from eckart.methods.allocation.fit_to_budget import GainPerByte
from eckart.methods.allocation.hull import fill_by_hull
from eckart.methods.allocation.rank_budget import RankBudget, Ranks
from eckart.methods.metric import Fisher
from eckart.methods.objectives import InputAware, Weight
from eckart.methods.recipe import Recipe
from eckart.methods.sensitivity.cost import StepSeconds
from eckart.methods.sensitivity.measurements import Measurements
from eckart.methods.sensitivity.request import Request
from eckart.run.estimate import estimate
from eckart.run.memory import memory_of_run
from eckart.sweep.build import build
from eckart.sweep.statistics import collect

CPU = torch.device("cpu")
KEEP = 0.6


def curvature_of(linear: LayerStatistics) -> Tensor:
    assert linear.curvature is not None
    return linear.curvature


class ByCurvature(Allocation):
    """Asks for curvature, as the allocator of that name does, and says nothing of how it is measured."""

    name: Literal["by-curvature"] = "by-curvature"
    needs: ClassVar[Needs] = Needs.SPECTRUM | Needs.CURVATURE

    def choose(self, problem: RankBudget) -> Ranks:
        return fill_by_hull(problem, problem.losses(curvature_of))

    def worth(self, problem: RankBudget) -> GainPerByte:
        return gain_per_byte(problem, problem.losses(curvature_of))


class WithField(ByCurvature):
    """Says by a field how gradients are measured."""

    name: Literal["with-field"] = "with-field"  # type: ignore[assignment]
    metric: Fisher = Field(default_factory=lambda: Fisher(labels="next"))


class Asking(ByCurvature):
    """Asks for gradients of its own metric, on few samples, and for first-order changes on others."""

    name: Literal["asking"] = "asking"  # type: ignore[assignment]
    needs: ClassVar[Needs] = Needs.SPECTRUM | Needs.CURVATURE | Needs.FIRST_ORDER
    seen: ClassVar[list[RankBudget]] = []

    def ask(self, request: Request) -> Request:
        return replace(super().ask(request), metric=Fisher(labels="next", samples=2), gradient_samples=3)

    def choose(self, problem: RankBudget) -> Ranks:
        self.seen.append(problem)
        return super().choose(problem)


class ByDamage(Allocation):
    """Measures how the loss rises if a linear is scaled down, which nothing else here measures."""

    name: Literal["by-damage"] = "by-damage"
    calls: ClassVar[list[float]] = []

    scale: float = 0.5

    @property
    def own_measurement(self) -> OwnMeasurement:
        return OwnMeasurement.ONCE

    def measure(self, model: BlockwiseModel, measured: Measurements, wanted: Wanted) -> Measurements:
        self.calls.append(wanted.keep)
        stream = model.enter()
        found: dict[str, float] = {}
        with torch.no_grad():
            for number, linear in enumerate(measured.linears, 1):
                behind = stream
                for index, block in enumerate(model.blocks):
                    with model.onload(index):
                        names = {ref.path: ref.name for ref in block.linears}
                        if linear.path in names:
                            weight = weight_matrix(block.module.get_submodule(names[linear.path]))
                            weight.mul_(self.scale)
                        behind = model.advance(index, behind, "damaged")
                        if linear.path in names:
                            weight.div_(self.scale)
                found[linear.path] = model.mean_losses([behind])[0]
                wanted.progress(number, len(measured.linears))
        return replace(measured, linears=tuple(replace(x, own=found[x.path]) for x in measured.linears))

    def own_seconds(self, steps: StepSeconds) -> float:
        return 12345.0 * len(steps.shapes) * steps.blocks

    def own_bytes(self, shapes: Sequence[tuple[int, int]]) -> int:
        return 10**6 * len(shapes)

    def own_streams(self, linears: int) -> int:
        return 10**6 * linears

    def choose(self, problem: RankBudget) -> Ranks:
        return ranks_by_damage(problem, {linear.path: linear.own for linear in problem.linears})


class ForEachSize(ByDamage):
    name: Literal["for-each-size"] = "for-each-size"  # type: ignore[assignment]

    @property
    def own_measurement(self) -> OwnMeasurement:
        return OwnMeasurement.FOR_EACH_SIZE


def ranks_by_damage(problem: RankBudget, damage: dict[str, float]) -> Ranks:
    """The half of the linears that does most damage keeps 0.7 of its bytes, the other half 0.4."""
    middle = sorted(damage.values())[len(damage) // 2]
    shares = {path: 0.7 if value >= middle else 0.4 for path, value in damage.items()}
    return {linear.path: problem.rank_of_share(linear, shares[linear.path]) for linear in problem.linears}


@pytest.fixture(autouse=True)
def nothing_was_seen() -> None:
    for seen in (Asking.seen, ByDamage.calls):
        seen.clear()


def recipe_with(allocation: Allocation) -> Recipe:
    return Recipe(name=allocation.name, objective=InputAware(), allocation=allocation)


def compressed(model: PreTrainedModel, allocation: Allocation, tokens: Tensor) -> eckart.CompressionResult:
    return eckart.compress(copy.deepcopy(model), recipe_with(allocation), KEEP, tokens)


def swept(model: PreTrainedModel, allocation: Allocation, tokens: Tensor) -> dict[str, int | None]:
    """Return the ranks that a row of a sweep has, which another allocator takes part in."""
    recipe = recipe_with(allocation)
    wanted = {recipe: [KEEP], recipe_with(Curvature(metric=Fisher(top_k=3))): [KEEP]}
    statistics = collect(model, wanted, Calibration(tokens, "token ids", 0), CPU)
    made = build(model, recipe, KEEP, statistics)
    statistics.close()
    return dict(made.ranks)


def mean_loss(model: PreTrainedModel, tokens: Tensor) -> Tensor:
    logits = model(input_ids=tokens, use_cache=False).logits[:, :-1].flatten(0, 1)
    return functional.cross_entropy(logits, tokens[:, 1:].flatten())


@pytest.mark.parametrize(
    ("foreign", "own"),
    [
        (ByCurvature(multiple=1), Curvature(multiple=1)),
        (WithField(multiple=1), Curvature(multiple=1, metric=Fisher(labels="next"))),
    ],
    ids=["by default", "by a field"],
)
def test_curvature_is_that_of_the_allocator_here(
    foreign: Allocation, own: Allocation, llama: PreTrainedModel, tokens: Tensor
) -> None:
    ours, theirs = (compressed(llama, allocation, tokens) for allocation in (foreign, own))
    assert ours.ranks == theirs.ranks
    assert len(set(ours.ranks.values())) > 3
    assert swept(llama, foreign, tokens) == {layer.path: layer.rank for layer in ours.layers}


@pytest.mark.parametrize("way", ["run", "sweep"])
def test_what_it_asks_for_is_measured_as_it_asks(way: str, llama: PreTrainedModel, tokens: Tensor) -> None:
    """Against whole passes of the model over the samples that were asked for, and no others."""
    allocation = Asking(multiple=1)
    if way == "run":
        compressed(llama, allocation, tokens)
    else:
        swept(llama, allocation, tokens)
    path = "model.layers.1.mlp.up_proj"
    (found,) = (linear for linear in Asking.seen[-1].linears if linear.path == path)
    linear = llama.get_submodule(path)
    weight = weight_matrix(linear).detach().double()
    inputs, outputs = list[Tensor](), list[Tensor]()

    def record(_: object, args: tuple[Tensor, ...], output: Tensor) -> None:
        inputs.append(args[0].flatten(0, 1).double())
        outputs.append(output)
        if output.requires_grad:
            output.retain_grad()

    handle = linear.register_forward_hook(record)
    with torch.no_grad():
        mean_loss(llama, tokens)  # all samples, whose inputs the components are of
    loss = mean_loss(llama, tokens[:2]) * tokens[:2, 1:].numel()
    loss.backward()
    handle.remove()
    grad = outputs[1].grad
    assert grad is not None
    # The components of the outputs, by an SVD of the outputs themselves.
    basis = torch.linalg.svd(weight @ inputs[0].T, full_matrices=False)[0][:, : min(weight.shape)]
    second = grad.flatten(0, 1).double().T @ grad.flatten(0, 1).double() / tokens[:2, 1:].numel()
    moment = inputs[0].T @ inputs[0] / len(inputs[0])
    removed = weight - basis[:, :5] @ basis[:, :5].T @ weight
    expected = float((second @ removed @ moment @ removed.T).trace()) / 2
    assert expected > 0
    assert float(curvature_of(found)[5:].sum()) == pytest.approx(expected, rel=1e-3)
    (gradient,) = torch.autograd.grad(mean_loss(llama, tokens[:3]), linear.weight)
    change = float((gradient.double() * (basis[:, :5] @ basis[:, :5].T @ weight)).sum())
    assert found.first_order is not None
    assert float(found.first_order[:5].sum()) == pytest.approx(-change, rel=1e-3)


def damage_of(model: PreTrainedModel, tokens: Tensor) -> dict[str, float]:
    """By whole passes of copies of the model."""
    found = {}
    for ref in (ref for block in original_of(model, tokens).blocks for ref in block.linears):
        damaged = copy.deepcopy(model)
        with torch.no_grad():
            weight_matrix(damaged.get_submodule(ref.path)).mul_(0.5)
            found[ref.path] = float(mean_loss(damaged, tokens))
    return found


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_ranks_follow_what_it_measured_itself(kind: str, tokens: Tensor) -> None:
    model, tokens = make_model(kind), tokens[:3]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    allocation = ByDamage(multiple=1, fill_budget=False)
    plan = make_plan(model, recipe_with(allocation), KEEP)
    layout = plan.recipe.layout
    chosen = ranks_by_damage(
        RankBudget(tuple(LayerStatistics(r.path, r.shape, 0, r.name) for r in plan.linears), KEEP, layout, multiple=1),
        damage_of(model, tokens),
    )
    of_one_shape = {ref.shape: {chosen[r.path] for r in plan.linears if r.shape == ref.shape} for ref in plan.linears}
    assert max(len(ranks) for ranks in of_one_shape.values()) == 2
    report = compressed(model, allocation, tokens)
    assert report.ranks == chosen
    assert swept(model, allocation, tokens) == chosen
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(("kind", "times"), [(ByDamage, 1), (ForEachSize, 2)])
def test_a_sweep_measures_as_often_as_it_says(
    kind: type[ByDamage], times: int, llama: PreTrainedModel, tokens: Tensor
) -> None:
    recipe, sizes = recipe_with(kind(multiple=1)), [0.6, 0.8]
    statistics = collect(llama, {recipe: sizes}, Calibration(tokens[:4], "token ids", 0), CPU)
    ranks = [statistics.storage(recipe, keep).ranks for keep in (*sizes, 1.0)]
    assert kind.calls == sizes[:times]
    assert ranks[0] != ranks[1]
    assert set(ranks[2].values()) == {None}
    # What it keeps beside is more than memory holds, so that hidden states are in files.
    assert not statistics.original.scratch.in_memory
    statistics.close()


def test_progress_is_heard(llama: PreTrainedModel, tokens: Tensor) -> None:
    class Listener(eckart.Callback):
        def on_measurement(self, done: int, total: int) -> None:
            steps.append((done, total))

    steps: list[tuple[int, int]] = []
    eckart.compress(llama, recipe_with(ByDamage()), KEEP, tokens[:4], callback=Listener())
    assert steps == [(number, 21) for number in range(1, 22)]


def test_time_and_memory_are_said_beforehand(llama: PreTrainedModel, tokens: Tensor) -> None:
    model = original_of(llama, tokens)
    plan = make_plan(llama, recipe_with(ByDamage()), KEEP)
    # 7 linears in each of 3 blocks.
    said = 12345 * 21
    assert said <= estimate(model, plan).allocation_seconds < 1.01 * said
    assert memory_of_run(model, plan).streams >= 21 * 10**6
    all_kept = replace(plan, keep=1.0)
    assert estimate(model, all_kept).allocation_seconds == 0
    assert memory_of_run(model, all_kept).streams < 10**6


@pytest.mark.parametrize("allocation", [ByDamage(), ByCurvature(), Asking()], ids=lambda allocation: allocation.name)
def test_tokens_are_asked_for_where_it_measures(allocation: Allocation, llama: PreTrainedModel) -> None:
    """Also where the objective looks at none."""
    recipe = Recipe(objective=Weight(), allocation=allocation)
    assert recipe.needs_data
    with pytest.raises(CalibrationError):
        eckart.compress(llama, recipe, KEEP)
