from __future__ import annotations

import pytest

import eckart
from eckart.errors import RecipeError
from eckart.methods.distillation import LoraRecovery
from eckart.methods.objectives import InputAware


def test_the_numbers_that_are_published() -> None:
    recipe = eckart.RECIPES["svd-llm-lora"]
    trained = recipe.distillation.training
    assert isinstance(trained, LoraRecovery)
    assert (trained.rank, trained.learning_rate, trained.batch, trained.epochs) == (8, 1e-4, 64, 2)
    assert trained.sides == ("second", "first")
    assert trained.adapts_factors
    assert trained.follows_text
    assert trained.split(256) == (256, 0)
    assert recipe.objective == InputAware()
    plain = eckart.RECIPES["svd-llm"]
    assert (recipe.arxiv, recipe.paper, recipe.allocation) == (plain.arxiv, plain.paper, plain.allocation)


@pytest.mark.parametrize("overrides", [["precision=8-bit"], ["structure=remapped"]])
def test_few_bits_hold_no_adapter(overrides: list[str]) -> None:
    with pytest.raises(RecipeError, match="adds adapters to the numbers of factors"):
        eckart.load_recipe("svd-llm-lora", overrides)


@pytest.mark.parametrize("overrides", [["structure=pivoted"], ["structure=hybrid"]])
def test_other_factors_do(overrides: list[str]) -> None:
    assert eckart.load_recipe("svd-llm-lora", overrides).distillation == LoraRecovery()


@pytest.mark.parametrize("wrong", ["rank=0", "alpha=0", "relative=true"])
def test_numbers_that_cannot_be(wrong: str) -> None:
    with pytest.raises(RecipeError, match=r"distillation"):
        eckart.load_recipe("svd-llm-lora", [f"distillation.{wrong}"])
