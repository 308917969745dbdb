from __future__ import annotations

import pytest
from pydantic import ValidationError

from eckart.errors import RecipeError
from eckart.methods.pairs import Narrow, NoPairs
from eckart.methods.recipes.loader import load_recipe


def test_sweeps_are_of_what_is_mixed() -> None:
    assert Narrow(sweeps=2).sweeps == 2
    assert Narrow(values="inputs").sweeps == 0
    with pytest.raises(ValidationError, match=r"values=inputs fits no projection\. Use values=mixed, or sweeps=0"):
        Narrow(values="inputs", sweeps=1)


def test_only_one_of_them_narrows() -> None:
    assert Narrow().narrows
    assert not NoPairs().narrows


def test_adapters_on_factors_have_nothing_to_adapt() -> None:
    with pytest.raises(RecipeError, match="distillation 'lora' does not go with that"):
        load_recipe("modegpt", overrides=["distillation=lora"])
