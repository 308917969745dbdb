"""What errors and warnings say, and where they point."""

from __future__ import annotations

import contextlib
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from eckart import errors
from eckart.errors import EckartError, EckartWarning, InterruptedRun, first_problem, suggest, warn


def test_an_error_of_ours_is_caught_as_one_and_an_interruption_is_none() -> None:
    ours = [kind for kind in vars(errors).values() if isinstance(kind, type) and kind.__name__.endswith("Error")]
    ours = [kind for kind in ours if kind.__module__ == errors.__name__]
    assert len(ours) > 5
    assert all(issubclass(kind, EckartError) for kind in ours)
    assert issubclass(InterruptedRun, KeyboardInterrupt)  # so that nobody takes it for an error
    assert not issubclass(InterruptedRun, Exception)


@pytest.mark.parametrize("depth", [0, 1, 3])
@pytest.mark.parametrize("decorated", [False, True])
def test_a_warning_points_at_the_line_that_called_into_the_package(depth: int, decorated: bool) -> None:
    """However deep in the package it is given, and behind its decorator of contextlib."""
    inside = {"warn": warn, "__name__": "eckart.some.module"}
    exec("def call(depth):\n    return call(depth - 1) if depth else warn('few tokens')", inside)
    call = inside["call"]
    assert callable(call)
    if decorated:
        kept = contextlib.contextmanager(lambda: iter([None]))
        call = kept()(call)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call(depth)  # this line
    (found,) = caught
    assert found.category is EckartWarning
    assert found.filename == __file__
    assert "# this line" in Path(__file__).read_text().splitlines()[found.lineno - 1]


class Layer(BaseModel):
    rank: int


class Data(BaseModel):
    layers: list[Layer]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"layers": [{"rank": 1}, {"rank": "x"}]}, "layers.1.rank: Input should be a valid integer"),
        ({}, "layers: Field required"),
        ([], "Input should be a valid dictionary"),
    ],
)
def test_the_first_problem_says_where_it_is(data: object, expected: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Data.model_validate(data)
    assert first_problem(caught.value).startswith(expected)


def test_a_name_that_is_nearly_one_is_guessed() -> None:
    choices = ["svd-llm", "svd", "aa-svd", "pivoted"]
    assert suggest("pivotd", choices) == "; did you mean 'pivoted'? Choices: aa-svd, pivoted, svd, svd-llm."
    assert suggest("svdllm", choices).startswith("; did you mean 'svd-llm' or 'svd'")
    assert suggest("zzz", choices) == ". Choices: aa-svd, pivoted, svd, svd-llm."


@given(name=st.text(max_size=8), choices=st.sets(st.text("abc-", min_size=1), max_size=6))
def test_every_choice_is_listed_once_and_only_choices_are_guessed(name: str, choices: set[str]) -> None:
    guess, listed = suggest(name, choices).split(" Choices: ")
    assert listed == ", ".join(sorted(choices)) + "."
    guessed = [word.strip("'?") for word in guess.split(" ") if word.startswith("'")]
    assert set(guessed) <= choices
    assert len(guessed) <= 3
