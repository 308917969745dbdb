from __future__ import annotations

from typing import ClassVar, Literal

import pytest
import torch
from pydantic import Field
from tests.methods.sensitivity.helpers import original_of
from transformers import PreTrainedModel

import eckart
from eckart.compression.request import request_of
from eckart.methods.allocation import Allocation, Curvature, Needs
from eckart.methods.allocation.base import gain_per_byte
from eckart.methods.allocation.fit_to_budget import GainPerByte
from eckart.methods.allocation.hull import fill_by_hull
from eckart.methods.allocation.rank_budget import RankBudget, Ranks
from eckart.methods.metric import Fisher
from eckart.methods.objectives import InputAware
from eckart.methods.recipe import Recipe
from eckart.methods.sensitivity.layer_statistics import LayerStatistics
from eckart.methods.sensitivity.measure import measure


class Foreign(Allocation):
    """Of another package: asks for curvature and does the same with it."""

    name: Literal["foreign"] = "foreign"
    needs: ClassVar[Needs] = Needs.SPECTRUM | Needs.CURVATURE

    def choose(self, problem: RankBudget) -> Ranks:
        return fill_by_hull(problem, problem.losses(_loss))

    def worth(self, problem: RankBudget) -> GainPerByte:
        return gain_per_byte(problem, problem.losses(_loss))


class WithMetric(Foreign):
    """Says how gradients are measured."""

    name: Literal["with-metric"] = "with-metric"  # type: ignore[assignment]
    metric: Fisher = Field(default_factory=lambda: Fisher(labels="next"))


class WithoutCurvature(Foreign):
    name: Literal["without-curvature"] = "without-curvature"  # type: ignore[assignment]
    needs: ClassVar[Needs] = Needs.SPECTRUM


def _loss(linear: LayerStatistics) -> torch.Tensor:
    assert linear.curvature is not None
    return linear.curvature


@pytest.mark.parametrize(
    ("foreign", "own"),
    [(Foreign(), Curvature()), (WithMetric(), Curvature(metric=Fisher(labels="next")))],
    ids=["default", "own metric"],
)
def test_any_allocation_that_asks_for_curvature_gets_it(
    llama: PreTrainedModel, tokens: torch.Tensor, foreign: Allocation, own: Allocation
) -> None:
    found = []
    for allocation in (foreign, own):
        recipe = Recipe(objective=InputAware(), allocation=allocation)
        found.append(measure(original_of(llama, tokens), request_of(recipe), lambda done, total: None).linears)
    for ours, theirs in zip(*found, strict=True):
        assert ours.curvature is not None
        assert theirs.curvature is not None
        assert ours.curvature.sum() > 0
        assert torch.equal(ours.curvature, theirs.curvature)


def test_an_allocation_that_does_not_ask_takes_no_gradients() -> None:
    assert request_of(Recipe(objective=InputAware(), allocation=WithoutCurvature())).metric is None


def test_it_gives_the_ranks_of_the_one_here(tokens: torch.Tensor, llama: PreTrainedModel) -> None:
    state = {name: tensor.clone() for name, tensor in llama.state_dict().items()}
    ours = eckart.compress(llama, Recipe(objective=InputAware(), allocation=Foreign(multiple=1)), 0.6, tokens).ranks
    theirs = type(llama)(llama.config).eval()
    theirs.load_state_dict(state)
    recipe = Recipe(objective=InputAware(), allocation=Curvature(multiple=1))
    assert ours == eckart.compress(theirs, recipe, 0.6, tokens).ranks
    assert len(set(ours.values())) > 3
