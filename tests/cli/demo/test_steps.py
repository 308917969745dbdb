from __future__ import annotations

from eckart.cli.demo.steps import STEPS
from eckart.methods.recipes.loader import load_recipe


def test_every_step_is_of_a_recipe_that_there_is() -> None:
    for step in STEPS:
        assert load_recipe(step.recipe, keep=step.keep).name == step.recipe
    assert len({step.name for step in STEPS}) == len(STEPS)
