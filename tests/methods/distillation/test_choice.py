from __future__ import annotations

import pytest
from pydantic import ValidationError

import eckart
from eckart.errors import CalibrationError, RecipeError
from eckart.methods.distillation import LogitDistillation, NoDistillation


def test_none_is_trained_without_data() -> None:
    assert NoDistillation().training is None
    assert not NoDistillation().needs_data
    assert LogitDistillation().training == LogitDistillation()
    assert LogitDistillation().needs_data


def test_a_recipe_names_it_with_its_numbers() -> None:
    overrides = ["distillation=logits", "distillation.epochs=2", "distillation.batch=3"]
    assert eckart.load_recipe("svd", overrides).distillation == LogitDistillation(epochs=2, batch=3)
    assert eckart.load_recipe("svd", overrides).needs_data
    assert not eckart.load_recipe("svd").needs_data
    with pytest.raises(RecipeError, match="distillation"):
        eckart.load_recipe("svd", ["distillation=hidden"])


def test_steps_are_counted_in_its_own_batches() -> None:
    """Of 16 samples 2 are held out; 14 take 14 steps an epoch one by one, and 5 three at a time."""
    assert LogitDistillation().steps(16) == 8 * 14
    assert LogitDistillation(batch=3, epochs=2).steps(16) == 2 * 5
    assert LogitDistillation(max_steps=30).steps(16) == 2 * 14


@pytest.mark.parametrize("samples", [0, 1])
def test_too_few_samples_are_named_with_the_place_in_the_recipe(samples: int) -> None:
    with pytest.raises(CalibrationError, match=rf"Distillation .* found {samples}\. .*distillation\.held_out"):
        LogitDistillation().split(samples)


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"batch": 0}, {"learning_rate": 0}, {"held_out": 1}, {"seed": 1}])
def test_numbers_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        LogitDistillation.model_validate(wrong)
