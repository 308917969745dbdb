from __future__ import annotations

import pytest
from small_models.texts import text_parts

from eckart.errors import CalibrationError


def test_parts_of_what_comes_with_python():
    parts = text_parts()
    assert text_parts() == parts
    assert len(parts["train"]) > 3_000_000
    assert min(len(parts["validation"]), len(parts["test"])) > 100_000
    assert "import" in parts["train"]


def test_no_document_is_in_two_parts():
    parts = text_parts()
    # Longer than a licence that several modules begin with.
    windows = {part: {text[i : i + 4000] for i in range(0, len(text) - 4000, 40_000)} for part, text in parts.items()}
    for part, others in (("validation", ("train", "test")), ("test", ("train", "validation"))):
        for other in others:
            assert not [window for window in windows[part] if window in parts[other]]


def test_parts_of_a_text_that_is_named(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(f"Paragraph {number} " + "x" * 2100 for number in range(200)))
    parts = text_parts(f"{path}:raw")
    numbers = {part: {line.split()[1] for line in text.split("\n\n")} for part, text in parts.items()}
    assert sum(map(len, numbers.values())) == 200
    assert len(set.union(*numbers.values())) == 200
    assert len(numbers["validation"]) == len(numbers["test"]) == 10


def test_a_text_that_is_not_there(tmp_path):
    with pytest.raises(CalibrationError, match="No text is called"):
        text_parts(str(tmp_path / "none.txt"))
