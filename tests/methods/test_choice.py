"""Choices as plain data."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from eckart.methods.choice import Choice, expand_name


class Some(Choice):
    name: str = "some"
    amount: float = 0.0


def test_a_name_alone_stands_for_a_choice_with_its_defaults() -> None:
    assert expand_name("some") == {"name": "some"}
    assert Some.model_validate(expand_name("some")) == Some()


def test_what_is_no_name_stays_as_it_is() -> None:
    for value in ({"name": "some", "amount": 1.0}, Some(), None, 3):
        assert expand_name(value) is value


def test_choices_are_values() -> None:
    assert Some(amount=1) == Some(amount=1)
    assert hash(Some(amount=1)) == hash(Some(amount=1))
    with pytest.raises(ValidationError, match="frozen"):
        Some().amount = 1.0  # type: ignore[misc]


@pytest.mark.parametrize("fields", [{"amuont": 1}, {"amount": float("nan")}, {"amount": float("inf")}], ids=str)
def test_misspelt_fields_and_numbers_that_are_none_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Some(**fields)
