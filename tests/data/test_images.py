from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tests.tiny import write_image

from eckart.data.images import read_image
from eckart.data.items import ItemError
from eckart.errors import CalibrationError

Image = pytest.importorskip("PIL.Image")


def test_colour_and_grey(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png", size=(5, 7))
    image = read_image(path, "a")
    assert (image.mode, image.size) == ("RGB", (7, 5))
    assert read_image(path.read_bytes(), "a").tobytes() == image.tobytes()
    assert read_image(path, "a", channels=1).mode == "L"


def test_transparency_and_rotation(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    exif = Image.Exif()
    exif[0x0112] = 6  # held on its side
    Image.new("RGBA", (4, 9), (200, 10, 10, 0)).save(path, exif=exif)
    image = read_image(path, "a")
    assert (image.mode, image.size) == ("RGB", (9, 4))


def test_what_is_no_image(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"no image")
    with pytest.raises(ItemError, match=r"^item 3 cannot be read as an image"):
        read_image(path, "item 3")
    whole = write_image(tmp_path / "b.png").read_bytes()
    with pytest.raises(ItemError, match=r"^item 4 cannot be read as an image"):
        read_image(whole[: len(whole) // 2], "item 4")
    with pytest.raises(ItemError, match=r"item 5: there is no file .*nowhere\.png"):
        read_image(tmp_path / "nowhere.png", "item 5")


def test_an_image_that_is_a_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_image(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    with pytest.raises(ItemError, match="larger than images are"):
        read_image(path, "a")


def test_without_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(CalibrationError, match=r"pip install 'eckart\[images\]'"):
        read_image(tmp_path / "a.png", "a")
