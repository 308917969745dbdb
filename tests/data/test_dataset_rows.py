from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
from tests.tiny import write_image, write_rows

from eckart.data.dataset_rows import Columns, load_dataset, open_dataset
from eckart.errors import CalibrationError


def test_what_a_name_says() -> None:
    assert Columns.of("dataset:a/b:train") == Columns("a/b", "train", "", None)
    assert Columns.of("stream:a/b:train:text:en") == Columns("a/b", "train", "text", "en")
    for wrong in ("dataset:a", "dataset::train", "dataset:a:b:c:d:e"):
        with pytest.raises(CalibrationError, match="Expected dataset:NAME:SPLIT"):
            Columns.of(wrong)


def test_images_are_not_decoded_and_classes_have_names(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    paths = {name: write_image(tmp_path / "data" / name / "1.png", seed=i) for i, name in enumerate(("cat", "dog"))}
    rows, names = open_dataset(Columns(str(tmp_path / "data"), "train"))
    assert sorted(names) == ["image", "label"]
    found = {row["label"]: row["image"] for row in rows(0, 2)}
    assert set(found) == {"cat", "dog"}
    for name, image in found.items():
        assert image["bytes"] == paths[name].read_bytes() or Path(image["path"]) == paths[name]


def test_no_more_is_read_than_is_needed(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    write_rows(tmp_path / "train.jsonl", [{"text": str(i)} for i in range(1000)])
    rows, _ = open_dataset(Columns(str(tmp_path), "train"))
    first = [int(row["text"]) for row in islice(rows(0, 5), 5)]
    assert max(first) < 40
    assert first != sorted(first)


def test_a_data_set_that_is_not_there(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    with pytest.raises(CalibrationError, match="cannot be loaded"):
        load_dataset(Columns(str(tmp_path / "nowhere"), "train"), streaming=True)
