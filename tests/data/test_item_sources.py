from __future__ import annotations

from pathlib import Path

import pytest
from tests.tiny import write_image, write_rows, write_sound

from eckart.data.item_sources import find_items
from eckart.errors import CalibrationError


def test_a_folder_of_images(tmp_path: Path) -> None:
    write_image(tmp_path / "cat" / "1.png")
    write_image(tmp_path / "dog" / "2.PNG")
    write_image(tmp_path / ".cache" / "3.png")
    (tmp_path / "dog" / "2.txt").write_text("a brown dog\n")
    source = find_items(str(tmp_path))
    assert source is not None
    assert (set(source.fields), source.count) == ({"image", "label", "text"}, 2)
    first, second = source.get(0), source.get(1)
    assert (first.image, first.label, first.text) == (tmp_path / "cat" / "1.png", "cat", None)
    assert (second.image, second.label, second.text) == (tmp_path / "dog" / "2.PNG", "dog", "a brown dog")


def test_a_folder_of_sounds(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.wav")
    source = find_items(str(tmp_path))
    assert source is not None
    assert source.get(0).sound == path
    assert source.get(0).label is None


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_file_of_metadata(kind: str, tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    write_image(tmp_path / "sub" / "b.png")
    if kind == "jsonl":
        write_rows(tmp_path / "metadata.jsonl", [{"file_name": "sub/b.png", "question": "what?", "answer": "b"}])
    else:
        (tmp_path / "metadata.csv").write_text('file_name,question,answer\nsub/b.png,what?,b\na.png,"",\n')
    source = find_items(str(tmp_path))
    assert source is not None
    assert source.fields == {"image", "label", "prompt", "answer"}
    assert source.get(0).prompt is None
    assert (source.get(1).prompt, source.get(1).answer, source.get(1).label) == ("what?", "b", "sub")


def test_metadata_without_a_file(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    write_rows(tmp_path / "metadata.jsonl", [{"text": "a"}])
    with pytest.raises(CalibrationError, match=r"metadata\.jsonl, line 1 has no file_name"):
        find_items(str(tmp_path))


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"holds no images \(\.png, .* and no sounds \(\.wav"):
        find_items(str(tmp_path))


def test_rows_of_json(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "x.jsonl", [{"image": "in/a.png", "text": "a"}, {"text": "b"}])
    source = find_items(str(path))
    assert source is not None
    assert (set(source.fields), source.count) == ({"image", "text"}, 2)
    assert source.get(0).image == tmp_path / "in" / "a.png"
    assert source.get(1).where == f"{path}, line 2"


def test_text_is_none(text_file: Path) -> None:
    assert find_items(str(text_file)) is None
    assert find_items("python-docs") is None


def test_a_data_set(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    write_rows(tmp_path / "train.jsonl", [{"question": f"{i}?", "answer": str(i)} for i in range(9)])
    source = find_items(f"dataset:{tmp_path}:train")
    assert source is not None
    assert source.stream is not None
    assert source.fields == {"prompt", "answer"}
    first = [item.answer for item in source.stream(0, 3)]  # type: ignore[union-attr]
    assert sorted(map(str, first)) == [str(i) for i in range(9)]
    assert first == [item.answer for item in source.stream(0, 3)]  # type: ignore[union-attr]
    assert first != [item.answer for item in source.stream(1, 3)]  # type: ignore[union-attr]
