"""Where a recipe refines nothing, no text is looked at and no block is touched."""

from __future__ import annotations

import pytest
from transformers import PreTrainedModel

import eckart
from eckart.methods.metric import Fisher
from eckart.methods.refinement import BlockRefinement, NoRefinement


def test_none_trains_nothing(llama: PreTrainedModel) -> None:
    chosen = eckart.load_recipe("svd").refinement
    assert chosen == NoRefinement()
    assert (chosen.training, chosen.output_metric, chosen.needs_data) == (None, None, False)
    assert eckart.compress(llama, "svd", 0.6).refinements == []


def test_block_refinement_says_how_it_trains_and_in_which_metric() -> None:
    chosen = BlockRefinement(epochs=3)
    assert chosen.training is not None
    assert chosen.training.epochs == 3
    assert chosen.needs_data
    assert chosen.output_metric is None
    assert BlockRefinement(metric=Fisher(samples=2)).output_metric == Fisher(samples=2)


@pytest.mark.parametrize("refinement", ["none", "block"])
def test_a_recipe_that_looks_at_text_asks_for_it(refinement: str) -> None:
    recipe = eckart.load_recipe("svd", [f"refinement={refinement}"])
    assert recipe.needs_data == (refinement == "block")
