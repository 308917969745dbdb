from __future__ import annotations

from time import perf_counter

import pytest

from eckart.files.plain_yaml import MAX_CHARACTERS, PlainYamlError, parse_yaml


def bomb(levels: int, copies: int) -> str:
    """Return YAML of a few lines that stands for ``copies ** levels`` values."""
    lines = ["a0: &a0 [x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * copies)}]" for n in range(1, levels + 1)]
    return "\n".join(lines)


def test_plain_data() -> None:
    text = "a: &x [1, 2.5, null, true]\nb: *x\nc: {d: 'e'}\nf: '99999999999999999999'\n"
    assert parse_yaml(text) == {
        "a": [1, 2.5, None, True],
        "b": [1, 2.5, None, True],
        "c": {"d": "e"},
        "f": "9" * 20,
    }
    assert parse_yaml("") is None
    assert parse_yaml("\ufeffa: 1") == {"a": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (bomb(9, 9), "more than 10,000 values"),
        (bomb(40, 2), "more than 10,000 values"),
        ("a: &a [*a]", "alias .a stands for nothing, or for what it is a part of"),
        ("a: *b", "alias .b stands for nothing"),
        ("[" * 100_000, "more than 50 levels"),
        ("- " * 100_000, "more than 50 levels"),
        ("a: [" + "1," * 20_000 + "]", "more than 10,000 values"),
        ("x" * (MAX_CHARACTERS + 1), "longer than 1,000,000 characters"),
        ('a: "\\ud83d"', r"\\ud83d, which is half a character"),
        ('"\\ud83d": a', "half a character"),
        ("a: " + "9" * 5_000, "beyond 2.53"),
        ("a: -9007199254740993", "beyond 2.53"),
        ("a: 2026-99-99", "month must be in"),
        ("a: !!int ''", "index"),
        ("a: !!timestamp x", "NoneType"),
        ("a: !!python/object/apply:os.getcwd []", "constructor"),
        ("a: [", "line 1, column 5"),
        ("a: \x00", "special characters are not allowed"),
        ("{[1]: 2}", "unhashable"),
    ],
)
def test_what_is_more_than_that(text: str, message: str) -> None:
    start = perf_counter()
    with pytest.raises(PlainYamlError, match=message):
        parse_yaml(text)
    assert perf_counter() - start < 30  # seconds; a bomb would take years
