from __future__ import annotations

import codecs

import pytest

from eckart.files.decoding import decode, half_character

TEXT = "Größe: 模型 \U0001f600\n"


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (b"", "utf-8"),
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
        (codecs.BOM_UTF32_BE, "utf-32-be"),
    ],
)
def test_a_byte_order_mark_is_no_part_of_the_text(mark: bytes, encoding: str) -> None:
    assert decode(mark + TEXT.encode(encoding)) == TEXT
    assert decode(mark) == ""


@pytest.mark.parametrize("data", [b"a\xff", b"\xff\xfea", b"\xed\xa0\xbd", codecs.BOM_UTF8 + b"\xff"])
def test_bytes_that_are_no_text(data: bytes) -> None:
    with pytest.raises(UnicodeDecodeError):
        decode(data)


def test_halves_of_characters() -> None:
    assert half_character("a\ud83db") == "\\ud83d"
    assert half_character("\U0001f600") is None
