"""Numbers and names for people, and figures as plain data."""

from __future__ import annotations

import html
import json
import math
import sys
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from eckart.report.figure import SYMBOLS, Figure, Select, axis, lines, marker, number, plain, rounded, thinned


@given(st.text())
def test_plain_text_is_shown_as_it_is(text: str) -> None:
    """What plotly reads as HTML gives the text back, but for the space that keeps a template from being one."""
    shown = plain(text)
    assert "<" not in shown
    assert "%{" not in shown
    assert html.unescape(shown).replace("% {", "%{") == html.unescape(html.escape(text, quote=False)).replace(
        "% {", "%{"
    )


def test_tooltips_leave_out_what_is_not_known() -> None:
    assert lines("a<b", None, "c") == "a&lt;b<br>c"
    assert lines(None) == ""


@pytest.mark.parametrize(
    ("value", "digits", "expected"),
    [
        (None, 3, "not known"),
        (math.nan, 3, "not known"),
        (math.inf, 3, "not known"),
        (0.0, 3, "0"),
        (1.0, 3, "1.00"),
        (12.345, 4, "12.35"),
        (12345.6, 3, "12,346"),
        (-0.05, 2, "-0.050"),
        (1e7, 3, "1.00e+07"),
        (0.00001234, 3, "1.23e-05"),
    ],
)
def test_numbers_for_people(value: float | None, digits: int, expected: str) -> None:
    assert number(value, digits) == expected


@given(st.floats(-1e300, 1e300), st.integers(1, 8))
def test_a_number_for_people_is_near_the_number(value: float, digits: int) -> None:
    assert math.isclose(float(number(value, digits).replace(",", "")), value, rel_tol=0.51 * 10 ** (1 - digits))


@given(st.floats(), st.integers(1, 15))
@example(sys.float_info.max, 4)
def test_rounded_numbers_are_near_and_are_written_as_json(value: float, digits: int) -> None:
    found = rounded(value, digits)
    json.dumps(found, allow_nan=False)
    if math.isfinite(value):
        assert found is not None
        assert math.isclose(found, value, rel_tol=0.51 * 10 ** (1 - digits))
        assert math.isfinite(found)
        assert rounded(found, digits) == found
    else:
        assert found is None


@given(st.integers(0, 300), st.integers(2, 40))
def test_thinned_numbers_are_few_even_and_have_both_ends(count: int, most: int) -> None:
    found = thinned(count, most)
    assert found == sorted(set(found))
    assert len(found) == min(count, most)
    if count:
        assert (found[0], found[-1]) == (0, count - 1)
    gaps = [after - before for before, after in pairwise(found)]
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_recipes_are_told_apart_by_their_shapes() -> None:
    assert len({marker(series)["symbol"] for series in range(len(SYMBOLS))}) == len(SYMBOLS)
    assert marker(len(SYMBOLS) + 2) == marker(2)


def test_a_variant_is_found_by_the_numbers_of_its_options() -> None:
    figure = Figure("id", "alt", [Select("A", ["x", "y"]), Select("B", ["z"])])
    figure.add((1, 0), iter([{"x": [1]}]), title="t")
    Figure("other", "alt").add((), [])
    assert figure.variants == {"1.0": {"traces": [{"x": [1]}], "layout": {"title": "t"}}}


def test_axes() -> None:
    assert axis("a & b") == {"title": {"text": "a &amp; b"}}
    assert axis("x", log=True, rangemode="tozero") == {"title": {"text": "x"}, "rangemode": "tozero", "type": "log"}
