from __future__ import annotations

import json
from pathlib import Path

import pytest

from eckart.data.text import read_python_docs, read_text, text_name
from eckart.errors import CalibrationError


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "lines.txt"
    path.write_bytes(b" = Title = \n\n a b \r\nform\x0cfeed\n")
    return path


def test_rows_follow_the_wikitext_convention(lines: Path) -> None:
    expected = "\n\n".join([" = Title = \n", "", " a b \n", "form\x0cfeed\n"])
    assert read_text(str(lines)) == expected
    assert read_text(f"{lines}:rows") == expected


def test_lines_are_stripped(lines: Path) -> None:
    assert read_text(f"{lines}:lines") == "= Title =\n\n\n\na b\n\nform\x0cfeed"


def test_raw_is_the_file(lines: Path) -> None:
    assert read_text(f"{lines}:raw") == " = Title = \n\n a b \nform\x0cfeed\n"


def test_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    # A line separator of Unicode inside a string does not end the line.
    path.write_text(
        "\n".join(
            json.dumps(row, ensure_ascii=False)
            for row in ({"text": "a\u2028b", "body": "x"}, {"text": "c", "body": "y"})
        )
        + "\n\n"
    )
    assert read_text(str(path)) == "a\u2028b\n\nc"
    assert read_text(f"{path}:body") == "x\n\ny"
    with pytest.raises(CalibrationError, match=r"line 1 has no text field 'bdy'; did you mean 'body'"):
        read_text(f"{path}:bdy")


def test_a_json_line_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\nnot json\n')
    with pytest.raises(CalibrationError, match="line 2 is not JSON"):
        read_text(str(path))
    path.write_text("[1]\n")
    with pytest.raises(CalibrationError, match="no text field"):
        read_text(str(path))


def test_a_dataset_in_a_local_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "corpus"
    folder.mkdir()
    for split, words in (("train", "one two"), ("test", "three")):
        rows = [json.dumps({"text": word, "title": word.upper()}) for word in words.split()]
        (folder / f"{split}.jsonl").write_text("\n".join(rows))
    assert read_text(f"dataset:{folder}:train") == "one\n\ntwo"
    assert read_text(f"dataset:{folder}:test:title") == "THREE"
    with pytest.raises(CalibrationError, match="no text field 'titel'; did you mean 'title'"):
        read_text(f"dataset:{folder}:test:titel")
    with pytest.raises(CalibrationError, match="cannot be loaded"):
        read_text(f"dataset:{folder}:validation")
    with pytest.raises(CalibrationError, match="Expected dataset:NAME:SPLIT"):
        read_text("dataset:x")


def test_the_parts_of_the_python_docs_have_no_paragraph_in_common() -> None:
    calibration, held_out = read_text("python-docs"), read_text("python-docs:held-out")
    assert len(calibration) > 2 * len(held_out) > 20_000
    assert not {p.strip() for p in calibration.split("\n\n") if p.strip()} & {
        p.strip() for p in held_out.split("\n\n") if p.strip()
    }
    assert read_python_docs(held_out=True) == held_out


@pytest.mark.parametrize(
    ("specification", "message"),
    [
        ("nowhere.txt", "No text is called 'nowhere.txt'"),
        ("python-doc", "No text is called 'python-doc'"),
        ("{folder}", "No text is called"),
        ("{folder}/empty.txt", "is empty"),
        ("{folder}/blank.txt:raw", "is empty"),
        ("{folder}/bytes.txt", "not UTF-8"),
        ("{folder}/utf-16.txt", "not UTF-16-LE text: truncated data at byte 4"),
        ("{folder}/empty.txt:row", "did you mean 'rows'"),
    ],
)
def test_bad_specifications(specification: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "blank.txt").write_text(" \n\n ")
    (tmp_path / "bytes.txt").write_bytes(b"a\xff\xfe")
    (tmp_path / "utf-16.txt").write_bytes(b"\xff\xfea\x00\x00")
    with pytest.raises(CalibrationError, match=message):
        read_text(specification.format(folder=tmp_path))


def test_a_name_does_not_tell_where_a_file_or_folder_was(tmp_path: Path) -> None:
    assert text_name("here/there/wiki.txt:lines") == "wiki.txt:lines"
    assert text_name("python-docs:held-out") == "python-docs:held-out"
    assert text_name("dataset:org/name:test") == "dataset:org/name:test"
    (tmp_path / "mine").mkdir()
    assert text_name(f"dataset:{tmp_path / 'mine'}:train:text") == "dataset:mine:train:text"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_is_no_part_of_the_text(encoding: str, tmp_path: Path) -> None:
    for name, text in (("text.txt", "Größe\nand more\n"), ("rows.jsonl", '{"text": "Größe"}\n{"text": "b"}\n')):
        (tmp_path / name).write_text(text, encoding="utf-8")
        (tmp_path / f"marked-{name}").write_text(text, encoding=encoding)
        assert read_text(str(tmp_path / f"marked-{name}")) == read_text(str(tmp_path / name))


@pytest.mark.parametrize("name", ["x" * 5_000, "x" * 5_000 + ":raw", "a\0b", "\udcff", "dataset:" + "x" * 5_000 + ":"])
def test_what_no_file_can_be_called(name: str) -> None:
    with pytest.raises(CalibrationError, match=r"No text is called|Expected dataset:"):
        read_text(name)
    assert text_name(name)
