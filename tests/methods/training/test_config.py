"""How many epochs and steps a training has."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from eckart.methods.distillation import LogitDistillation
from eckart.methods.recipes.loader import load_recipe
from eckart.methods.refinement import BlockRefinement
from eckart.methods.training.config import LEAST_TOKENS


def test_epochs_without_a_bound() -> None:
    plan = BlockRefinement(epochs=6, batch=3)
    assert [plan.epochs_on(samples) for samples in (2, 16, 1000)] == [6, 6, 6]
    assert plan.steps(16) == 6 * 5  # two of 16 are held out


def test_more_samples_take_fewer_epochs() -> None:
    plan = LogitDistillation(epochs=6, batch=1, max_steps=100)
    assert [(plan.epochs_on(samples), plan.steps(samples)) for samples in (16, 32, 64, 128)] == [
        (6, 84),
        (3, 84),
        (1, 56),
        (1, 112),  # one is the least
    ]


@given(st.integers(2, 500), st.integers(1, 40), st.integers(1, 9), st.integers(1, 999))
def test_the_bound_is_kept_where_one_epoch_keeps_it(samples: int, batch: int, epochs: int, bound: int) -> None:
    plan = BlockRefinement(epochs=epochs, batch=batch, max_steps=bound)
    steps_an_epoch = BlockRefinement(epochs=1, batch=batch).steps(samples)
    assert plan.steps(samples) <= max(bound, steps_an_epoch)
    assert plan.epochs_on(samples) == epochs or plan.steps(samples) + steps_an_epoch > bound
    # The rate falls to its end in the last of the steps that there are.
    assert plan.rate(plan.steps(samples), samples) <= plan.rate(plan.steps(samples) // 2, samples) * (1 + 1e-9)


def test_a_recipe_says_it_by_name() -> None:
    recipe = load_recipe("aa-svd", ["refinement.max_steps=50"])
    assert isinstance(recipe.refinement, BlockRefinement)
    assert recipe.refinement.max_steps == 50


@given(st.integers(1, 64), st.floats(1, 2000))
def test_a_step_on_short_samples_sees_enough_tokens(batch: int, tokens: float) -> None:
    plan = BlockRefinement(batch=batch).on_short_samples(tokens)
    assert plan.batch == batch or LEAST_TOKENS <= plan.batch * tokens < LEAST_TOKENS + tokens
    assert plan.batch >= batch
