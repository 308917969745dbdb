"""Commands that write a single file replace only their own."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.cli.helpers import run, words


@pytest.mark.parametrize("name", ["ranks.png", "ranks.svg"])
def test_a_map_takes_the_place_of_a_map_only(name: str, compressed: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / name
    for _ in range(2):
        assert run("inspect", compressed, "--map-image", path).exit_code == 0
    mine = b"\x89PNG my holiday" if name.endswith("png") else b"<svg>my holiday</svg>"
    path.write_bytes(mine)
    for place, message in ((path, "is no map that Eckart drew"), (compressed / name, "lies in")):
        done = run("inspect", compressed, "--map-image", place)
        assert done.exit_code == 2
        assert message in words(done.stderr)
    assert path.read_bytes() == mine
    assert not (compressed / name).exists()
    assert not list(tmp_path.glob(".eckart-*"))


def test_a_page_takes_the_place_of_a_page_only(compressed: Path, tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    path = tmp_path / "page.html"
    for _ in range(2):
        assert run("report", compressed, "-o", path).exit_code == 0
    path.write_text("<h1>mine</h1>")
    for place, message in (
        (path, "is no page of `eckart report`"),
        (compressed, "which is read"),
        (compressed / "page.html", "lies in"),
    ):
        done = run("report", compressed, "-o", place)
        assert done.exit_code == 2
        assert message in words(done.stderr)
    assert path.read_text() == "<h1>mine</h1>"


def test_a_sweep_writes_into_no_file_of_others(model_folder: Path, text_file: Path, tmp_path: Path) -> None:
    before = text_file.read_bytes()
    common = ["sweep", model_folder, "--recipes", "svd", "--keep", "0.6", "--text", text_file]
    for place, message in (
        (text_file, "which is read"),
        (model_folder / "sweep.sqlite", "lies in"),
        (model_folder / "config.json", "lies in"),
        (tmp_path / "no" / "sweep.sqlite", "there is no folder"),
    ):
        done = run(*common, "-o", place)
        assert done.exit_code == 2
        assert message in words(done.stderr)
    assert text_file.read_bytes() == before
