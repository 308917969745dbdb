from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("matplotlib")  # whose fonts digits are drawn with

from small_models.pictures import (
    CELL,
    COLOURS,
    DIGIT,
    FONTS,
    PARTS,
    SHAPES,
    SIDE,
    SIZES,
    Scene,
    Thing,
    draw_picture,
    make_scene,
)
from small_models.pictures import _digit as digit


def test_a_scene_and_its_picture_are_the_same_every_time():
    first, again = make_scene("train", 7), make_scene("train", 7)
    assert first == again
    assert draw_picture(first).tobytes() == draw_picture(again).tobytes()
    assert draw_picture(first).size == (SIDE, SIDE)
    assert draw_picture(first).mode == "RGB"


def test_scenes_are_as_they_always_were():
    """Models that were trained elsewhere have seen these."""
    things = [(thing.shape, thing.colour, thing.size, thing.place) for thing in make_scene("train", 0).things]
    assert things[:3] == [
        ("square", "red", "small", "top left"),
        (DIGIT, "red", "small", "middle left"),
        ("circle", "white", "large", "middle centre"),
    ]


def test_no_scene_is_in_two_parts_or_under_two_seeds():
    seen = [make_scene(part, number, seed) for part in PARTS for seed in (0, 1) for number in range(150)]
    assert len({scene.seed for scene in seen}) == len(seen)
    assert len({draw_picture(scene).tobytes() for scene in seen[::9]}) == len(seen[::9])


def test_a_part_that_does_not_exist():
    with pytest.raises(ValueError, match=r"train, validation, test; found 'eval'"):
        make_scene("eval", 0)


def test_scenes_hold_all_that_can_be():
    things = [thing for number in range(300) for thing in make_scene("test", number).things]
    assert {thing.shape for thing in things} == {*SHAPES, DIGIT}
    assert {thing.colour for thing in things} == set(COLOURS)
    assert {thing.size for thing in things} == set(SIZES)
    assert {(thing.row, thing.column) for thing in things} == {(row, column) for row in range(3) for column in range(3)}
    assert {thing.digit for thing in things} == {*range(10), None}


@pytest.mark.parametrize("shape", [*SHAPES, DIGIT])
@pytest.mark.parametrize("colour", COLOURS)
def test_a_thing_is_in_its_cell_in_its_colour(shape, colour):
    """The reddest pixels of a red thing are where the scene says that it is."""
    thing = Thing(shape, colour, "large", row=2, column=1, digit=8 if shape == DIGIT else None)
    pixels = np.asarray(draw_picture(Scene((thing,), seed=3)), dtype=float)
    near = np.linalg.norm(pixels - np.array(COLOURS[colour]), axis=2) < 75
    rows, columns = np.nonzero(near)
    assert len(rows) > 15
    assert rows.min() >= 2 * CELL - 1
    assert columns.min() >= CELL - 1
    assert columns.max() < 2 * CELL + 1


def test_large_things_cover_more_than_small_ones():
    def covered(size: str) -> int:
        pixels = np.asarray(draw_picture(Scene((Thing("square", "white", size, 1, 1),), seed=5)))
        return int((pixels.min(axis=2) > 150).sum())

    assert covered("large") > 2 * covered("small") > 40


@pytest.mark.parametrize("font", FONTS)
def test_digits_of_a_font_differ(font):
    forms = {digit(number, font, 48).tobytes() for number in range(10)}
    assert len(forms) == 10
    for number in range(10):
        ink = np.asarray(digit(number, font, 48)) > 128
        assert 0.08 < ink.mean() < 0.6  # neither empty nor the box that stands for a letter that is missing
        assert ink[:3].any()  # it fills the height
        assert ink[-3:].any()
