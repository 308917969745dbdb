"""Numbers and names from files: what is none of them is refused, and what is one is not changed."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from eckart.files.field_types import Count, Label, Size, Whole


class Record(BaseModel):
    whole: Whole = 0
    count: Count = 0
    size: Size = 1
    label: Label = ""


def read(**values: object) -> Record:
    """Return a record as it is read from a file of JSON."""
    return Record.model_validate_json(json.dumps(values))


@given(st.integers())
def test_whole_numbers_stay_what_they_are_within_their_range(value: int) -> None:
    assert read(whole=value).whole == value
    for name, least in (("count", 0), ("size", 1)):
        if least <= value < 2**63:
            assert getattr(read(**{name: value}), name) == value
        else:
            with pytest.raises(ValidationError, match=f"^1 validation error for Record\n{name}\n"):
                read(**{name: value})


@pytest.mark.parametrize("name", ["count", "size"])
@pytest.mark.parametrize("value", [2**63, 10**400, -1])
def test_numbers_that_no_other_program_holds_are_refused(name: str, value: int) -> None:
    with pytest.raises(ValidationError, match=name):
        Record.model_validate({name: value})


@pytest.mark.parametrize(
    ("value", "kind"), [(True, "bool"), ("7", "str"), (7.0, "float"), (0.5, "float"), ("seven", "str")]
)
@pytest.mark.parametrize("name", ["whole", "count", "size"])
def test_what_could_be_taken_for_a_whole_number_is_refused(name: str, value: object, kind: str) -> None:
    with pytest.raises(ValidationError, match=f"{name}\n.*expected a whole number, found {kind}"):
        read(**{name: value})


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_labels_are_printed_or_refused(text: str) -> None:
    if any(unicodedata.category(character) == "Cc" for character in text):
        with pytest.raises(ValidationError, match="expected a name without control characters"):
            read(label=text)
    else:
        assert read(label=text).label == text


@pytest.mark.parametrize("character", ["\x00", "\x1b", "\x7f", "\x9b", "\n"])
def test_no_label_moves_the_cursor(character: str) -> None:
    with pytest.raises(ValidationError, match="without control characters"):
        read(label=f"a{character}b")
