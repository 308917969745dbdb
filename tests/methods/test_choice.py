from __future__ import annotations

import math
from typing import Literal

import pytest
from pydantic import ValidationError

from eckart.methods.choice import Choice, expand_name


class Chosen(Choice):
    name: Literal["chosen"] = "chosen"
    number: float = 1.0


def test_a_name_stands_for_a_choice_with_its_own_numbers() -> None:
    assert Chosen.model_validate(expand_name("chosen")) == Chosen()
    given = {"name": "chosen", "number": 2.0}
    assert expand_name(given) is given
    choice = Chosen(number=3.0)
    assert expand_name(choice) is choice
    assert expand_name(None) is None


def test_a_choice_is_plain_data_that_does_not_change() -> None:
    choice = Chosen(number=2.0)
    assert Chosen.model_validate_json(choice.model_dump_json()) == choice
    assert hash(Chosen(number=2.0)) == hash(choice)
    assert len({choice, Chosen(number=2.0), Chosen()}) == 2
    with pytest.raises(ValidationError, match="frozen"):
        choice.number = 4.0  # type: ignore[misc]


@pytest.mark.parametrize("wrong", [{"nmber": 2.0}, {"number": math.nan}, {"number": math.inf}, {"name": "other"}])
def test_fields_that_there_are_not_and_numbers_that_are_none_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Chosen.model_validate(wrong)
