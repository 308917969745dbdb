"""Bytes of a text file to characters: UTF-8, or what the byte order mark in front says."""

from __future__ import annotations

import codecs
import re

# Longer marks first: the mark of UTF-16 is the beginning of that of UTF-32.
MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
SURROGATE = re.compile("[\ud800-\udfff]")


def decode(data: bytes) -> str:
    """Return the characters of a text file; a byte order mark, as editors of Windows write it, is no part of them.

    Raises:
        UnicodeDecodeError: the bytes are no text in the encoding that is said there.
    """
    return data.decode(next((encoding for mark, encoding in MARKS if data.startswith(mark)), "utf-8"))


def half_character(text: str) -> str | None:
    r"""Return the first half of a surrogate pair in a text, as ``\ud83d``, or None if all characters are whole.

    Escapes of JSON and YAML can write one, and no encoding has it: what is made of such a text cannot be stored.
    """
    found = SURROGATE.search(text)
    return None if found is None else f"\\u{ord(found[0]):x}"
