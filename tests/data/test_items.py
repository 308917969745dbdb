from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eckart.data.items import Item, ItemError, fields_of, item_of

HERE = Path("folder")


def test_columns_by_their_usual_names() -> None:
    row = {"img": "a.png", "question": "what?", "response": "a cat", "label": 3, "other": object()}
    assert fields_of(row) == {"image", "prompt", "answer", "label"}
    expected = Item("row 1", image=HERE / "a.png", prompt="what?", answer="a cat", label=3)
    assert item_of(row, "row 1", HERE) == expected


def test_a_row_says_more_than_what_is_known() -> None:
    item = item_of({"caption": "b"}, "x", HERE, text="a", image=HERE / "c.png")
    assert (item.text, item.image) == ("b", HERE / "c.png")
    assert item_of({"caption": None}, "x", HERE, text="a").text == "a"


def test_files_of_data_sets() -> None:
    assert item_of({"image": {"bytes": b"x", "path": "a.png"}}, "x", None).image == b"x"
    assert item_of({"audio": {"bytes": None, "path": "a.wav"}}, "x", None).sound == Path("a.wav")
    assert item_of({"images": [b"x"]}, "x", None).image == b"x"


def test_conversations() -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": [{"type": "text", "text": "ho"}]}]
    assert item_of({"messages": messages}, "x", HERE).messages == messages


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image": 3}, "the field 'image' holds int; expected the path of one file"),
        ({"image": ["a.png", "b.png"]}, "holds list"),
        ({"image": "https://example.org/a.png"}, "address .*nothing is downloaded"),
        ({"text": 3}, "the field 'text' holds int; expected text"),
        ({"label": True}, "holds bool; expected the name or the number of a class"),
        ({"label": [1]}, "holds list"),
        ({"messages": "hi"}, "no conversation"),
        ({"messages": [{"content": "hi"}]}, "no conversation"),
        ({"messages": [{"role": "user", "content": 3}]}, "neither text nor a list of parts"),
        ({"messages": [{"role": "user", "content": ["hi"]}]}, "neither text nor a list of parts"),
    ],
)
def test_what_a_field_cannot_hold(row: dict[str, Any], message: str) -> None:
    with pytest.raises(ItemError, match=f"^row 7.*{message}"):
        item_of(row, "row 7", HERE)
