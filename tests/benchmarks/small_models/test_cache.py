from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_models.cache import SETTINGS_NAME, VARIABLE, cache_folder, cached


def make(folder: Path) -> None:
    (folder / "made").write_text("whole")


def test_what_was_made_is_not_made_again(tmp_path):
    first = cached("thing", {"size": 1}, make, tmp_path)
    assert (first / "made").read_text() == "whole"
    assert json.loads((first / SETTINGS_NAME).read_text()) == {"size": 1}

    def fail(folder: Path) -> None:
        raise AssertionError("made again")

    assert cached("thing", {"size": 1}, fail, tmp_path) == first


def test_other_settings_and_other_names_are_other_folders(tmp_path):
    folders = {cached(name, {"size": size}, make, tmp_path) for name in ("a", "b") for size in (1, 2)}
    assert len(folders) == 4


def test_the_order_of_settings_is_no_matter(tmp_path):
    first, again = (cached("a", facts, make, tmp_path) for facts in ({"x": 1, "y": 2}, {"y": 2, "x": 1}))
    assert first == again


def test_what_was_cut_off_is_not_taken_and_is_gone_on_with(tmp_path):
    def stop(folder: Path) -> None:
        (folder / "half").write_text("1")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached("thing", {}, stop, tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.is_dir() and path.suffix != ".unfinished"]

    def go_on(folder: Path) -> None:
        assert (folder / "half").read_text() == "1"
        make(folder)

    assert sorted(path.name for path in cached("thing", {}, go_on, tmp_path).iterdir()) == [
        "half",
        "made",
        SETTINGS_NAME,
    ]


@pytest.mark.parametrize(
    ("system", "variable", "expected"),
    [
        ("linux", "XDG_CACHE_HOME", "PLACE/eckart"),
        ("win32", "LOCALAPPDATA", "PLACE/eckart/Cache"),
        ("linux", VARIABLE, "PLACE"),
        ("darwin", VARIABLE, "PLACE"),
    ],
)
def test_where_it_is(system, variable, expected, tmp_path, monkeypatch):
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA", VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("small_models.cache.sys.platform", system)
    monkeypatch.setenv(variable, str(tmp_path))
    assert cache_folder() == Path(expected.replace("PLACE", str(tmp_path)))
    assert cache_folder(tmp_path / "chosen") == tmp_path / "chosen"
