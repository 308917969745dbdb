"""YAML of strangers: plain data of a bounded size, or an error in one sentence."""

from __future__ import annotations

from typing import Any

import yaml

from eckart.files.decoding import half_character

MAX_CHARACTERS = 1_000_000
MAX_DEPTH = 50
MAX_VALUES = 10_000  # with what aliases stand for written out
LARGEST = 2**53  # beyond it, not every whole number is one of the floats that other readers of the file have


class PlainYamlError(ValueError):
    """Text that is no YAML, or more than is ever needed; says what is wrong."""


def parse_yaml(text: str) -> Any:
    """Return the plain data that a YAML text stands for.

    Raises:
        PlainYamlError: it is no YAML, names objects of Python, is too long or too deep, or its aliases stand for too
            much.
    """
    if len(text) > MAX_CHARACTERS:
        raise PlainYamlError(f"it is longer than {MAX_CHARACTERS:,} characters")
    try:
        _check_events(text)
        return yaml.safe_load(text)
    except PlainYamlError:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = "" if mark is None else f" in line {mark.line + 1}, column {mark.column + 1}"
        raise PlainYamlError(f"{error.problem}{where}") from error
    except Exception as error:  # for numbers and dates out of range PyYAML raises whatever Python does
        raise PlainYamlError(" ".join(str(error).split()) or type(error).__name__) from error


def _check_events(text: str) -> None:
    """Raise if loading would take long or much: a bounded text of nine lines can stand for a billion values."""
    sizes: dict[str, int] = {}  # values that an anchor stands for
    counts = [0]
    anchors: list[str | None] = [None]
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            counts.append(1)
            anchors.append(event.anchor)
        elif isinstance(event, yaml.CollectionEndEvent):
            size, anchor = counts.pop(), anchors.pop()
            counts[-1] += size
            if anchor is not None:
                sizes[anchor] = size
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise PlainYamlError(f"the alias *{event.anchor} stands for nothing, or for what it is a part of")
            counts[-1] += sizes[event.anchor]
        elif isinstance(event, yaml.ScalarEvent):
            counts[-1] += 1
            if event.anchor is not None:
                sizes[event.anchor] = 1
            _check_scalar(event)
        if len(counts) > MAX_DEPTH:
            raise PlainYamlError(f"it is nested more than {MAX_DEPTH} levels deep")
        if sum(counts) > MAX_VALUES:
            raise PlainYamlError(f"it stands for more than {MAX_VALUES:,} values")


def _check_scalar(event: yaml.ScalarEvent) -> None:
    half = half_character(event.value)
    if half is not None:
        raise PlainYamlError(f"it has {half}, which is half a character")
    if event.style is not None:  # in quotes
        return
    try:
        large = abs(int(event.value)) > LARGEST
    except ValueError:  # no whole number, or one of more digits than Python reads
        large = event.value.lstrip("+-").isdecimal()
    if large:
        raise PlainYamlError(f"it has a whole number beyond 2^53: {event.value[:20]}")
