from __future__ import annotations

import json
from pathlib import Path

import pytest

from eckart.data.text import read_text
from eckart.errors import CalibrationError, EckartWarning

CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


@pytest.fixture(params=["lines", "data set"])
def corpus(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return what writes rows and gives the specification of their text."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))

    def write(values: list[object]) -> str:
        if request.param == "data set":
            pytest.importorskip("datasets")
        folder = tmp_path / f"rows{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        (folder / "train.jsonl").write_text("\n".join(json.dumps({"text": value}) for value in values))
        return f"dataset:{folder}:train" if request.param == "data set" else str(folder / "train.jsonl")

    return write


def test_rows_without_text_are_left_out_and_counted(corpus) -> None:
    with pytest.warns(EckartWarning, match="2 of 4 rows have no text in their field 'text' and are left out"):
        assert read_text(corpus(["a", None, "b", None])) == "a\n\nb"


def test_an_empty_row_is_a_blank_line_as_in_wikitext(corpus) -> None:
    assert read_text(corpus(["a", "", "b"])) == "a\n\n\n\nb"


def test_rows_without_any_text(corpus) -> None:
    with pytest.raises(CalibrationError, match="is empty"):
        read_text(corpus(["", ""]))
    with pytest.warns(EckartWarning, match="1 of 1"), pytest.raises(CalibrationError, match="is empty"):
        read_text(corpus([None]))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (CHAT, "row|line 1.*'text' holds a chat, which is a list of messages.*apply_chat_template"),
        (["a", "b"], "holds a list, expected text. Name a field"),
        ([], "holds a list"),
        ({"a": 1}, "holds an object"),
        (3, "holds a number"),
        (2.5, "holds a number"),
        (True, "holds true or false"),
    ],
)
def test_rows_that_hold_something_else(corpus, value: object, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        read_text(corpus([value, value]))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "half of a \\ud83d smile"}', r"line 2: the text has \\ud83d, which is half a character"),
        ('{"text": ' + "[" * 100_000 + "]" * 100_000 + "}", "line 2 is JSON that is nested too deep"),
        ('{"text": ' + "9" * 5_000 + "}", "line 2 is JSON with a number of more digits"),
        ("[1, 2]", "line 2 has no text field 'text': it is a list, expected an object"),
        ('{"txt": "a"}', "line 2 has no text field 'text'; did you mean 'txt'"),
        ('{"id": 1, "labels": [2]}', "line 2 has no text field 'text', nor any other: it has 'id', 'labels'. Use"),
        ("{}", "line 2 has no text field 'text', nor any other: it has no fields at all"),
        (json.dumps({"id": "a", "messages": CHAT}), "line 2 has no text field 'text'; its field 'messages' .*template"),
        ("{", "line 2 is not JSON"),
    ],
)
def test_lines_that_cannot_be_read(line: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "whole: \\ud83d\\ude00"}\n' + line)
    with pytest.raises(CalibrationError, match=message):
        read_text(str(tmp_path / "rows.jsonl"))


def test_a_data_set_of_chats_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "chats").mkdir()
    (tmp_path / "chats" / "train.jsonl").write_text(json.dumps({"messages": CHAT}))
    with pytest.raises(CalibrationError, match=r"no text field 'text'; its field 'messages' holds a chat.*template"):
        read_text(f"dataset:{tmp_path / 'chats'}:train")


def test_a_stream_is_read_no_further_than_needed(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    rows = [json.dumps({"text": f"row {i:04d}"}) for i in range(100)] + ['{"text": 3}']
    (tmp_path / "train.jsonl").write_text("\n".join(rows))
    assert read_text(f"stream:{tmp_path}:train", enough=30) == "\n\n".join(f"row {i:04d}" for i in range(4))
    with pytest.raises(CalibrationError, match="no text field 'words'"):
        read_text(f"stream:{tmp_path}:train:words", enough=30)
