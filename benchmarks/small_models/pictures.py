"""Pictures to ask about: coloured shapes and digits on a grid, drawn from a seed.

A scene is what is on a picture, as plain data; a picture is a scene with its noise. Scene number i of a part (train,
validation, test) depends on the part, the seed and i alone, so no two parts share a scene by construction.
"""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

PARTS = ("train", "validation", "test")
GRID, CELL = 3, 20
SIDE = GRID * CELL  # pixels
FINER = 3  # drawn so much larger, then reduced: edges come out smooth
SHAPES = ("circle", "square", "triangle", "star")
DIGIT = "digit"
COLOURS = {
    "red": (224, 58, 52),
    "green": (62, 176, 76),
    "blue": (70, 110, 235),
    "yellow": (238, 208, 60),
    "purple": (168, 80, 200),
    "white": (240, 240, 240),
}
SIZES = {"small": 10, "large": 17}  # pixels
ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "centre", "right")
FONTS = ("DejaVuSans", "DejaVuSerif", "DejaVuSansMono-Bold", "STIXGeneral", "cmss10")
TURN = 20  # degrees that a thing is turned by, at most
FEWEST, MOST = 3, 6  # things in a scene


@dataclass(frozen=True)
class Thing:
    """What is in one cell.

    Attributes:
        shape: one of :data:`SHAPES`, or :data:`DIGIT`.
        colour: one of :data:`COLOURS`.
        size: one of :data:`SIZES`.
        row: 0 is the top one.
        column: 0 is the left one.
        digit: which one it is, where it is one.
    """

    shape: str
    colour: str
    size: str
    row: int
    column: int
    digit: int | None = None

    @property
    def place(self) -> str:
        """Where it is, in words."""
        return f"{ROWS[self.row]} {COLUMNS[self.column]}"


@dataclass(frozen=True)
class Scene:
    """What is on a picture, in reading order, and the seed of how it is drawn."""

    things: tuple[Thing, ...]
    seed: int

    def at(self, row: int, column: int) -> Thing | None:
        """Return what is in a cell."""
        return next((thing for thing in self.things if (thing.row, thing.column) == (row, column)), None)


def make_scene(part: str, index: int, seed: int = 0) -> Scene:
    """Return a scene of one of the :data:`PARTS`; at most one of its things is a digit.

    Raises:
        ValueError: there is no such part.
    """
    if part not in PARTS:
        raise ValueError(f"Pictures are of the parts {', '.join(PARTS)}; found {part!r}.")
    draw = random.Random(f"{part}/{seed}/{index}")  # of a text: the same on every machine
    cells = sorted(draw.sample(range(GRID * GRID), draw.randint(FEWEST, MOST)))
    # Few shapes and colours a scene: then there is something to count, and to tell apart by the other.
    shapes = draw.choices(SHAPES, k=3)
    colours = draw.choices(list(COLOURS), k=4)
    with_digit = draw.choice(cells) if draw.random() < 0.7 else None
    things = []
    for cell in cells:
        digit = draw.randrange(10) if cell == with_digit else None
        things.append(
            Thing(
                shape=draw.choice(shapes) if digit is None else DIGIT,
                colour=draw.choice(colours),
                size=draw.choice(list(SIZES)),
                row=cell // GRID,
                column=cell % GRID,
                digit=digit,
            )
        )
    return Scene(tuple(things), draw.getrandbits(32))


def draw_picture(scene: Scene) -> Image.Image:
    """Return the picture of a scene, :data:`SIDE` pixels wide and high, in colour, with noise."""
    draw = random.Random(scene.seed)
    grey = draw.randint(20, 80)
    canvas = Image.new("RGB", (SIDE * FINER, SIDE * FINER), (grey, grey, grey))
    for thing in scene.things:
        colour = tuple(max(0, min(255, value + draw.randint(-16, 16))) for value in COLOURS[thing.colour])
        stencil = _stencil(thing, draw)
        room = CELL * FINER - stencil.width
        # Two pixels at most from the middle of the cell, so that neighbours do not touch.
        across, down = (room // 2 + draw.randint(-2, 2) * FINER for _ in range(2))
        corner = (thing.column * CELL * FINER + across, thing.row * CELL * FINER + down)
        canvas.paste(colour, corner, stencil)
    pixels = np.asarray(canvas.reduce(FINER), dtype=np.float32)
    noise = np.random.default_rng(scene.seed).normal(0, draw.uniform(2, 14), pixels.shape)
    return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))


def _stencil(thing: Thing, draw: random.Random) -> Image.Image:
    """Return the form of a thing, turned a little: white on black, square."""
    side = (SIZES[thing.size] + draw.randint(-1, 1)) * FINER
    turn = draw.uniform(-TURN, TURN)
    if thing.shape == DIGIT:
        return _digit(thing.digit or 0, draw.choice(FONTS), side).rotate(turn, Image.Resampling.BILINEAR)
    stencil = Image.new("L", (side, side))
    pen = ImageDraw.Draw(stencil)
    middle = side / 2
    if thing.shape == "circle":
        pen.ellipse((0, 0, side - 1, side - 1), fill=255)
    elif thing.shape == "star":
        pen.polygon(_star(middle, turn), fill=255)
    else:
        pen.regular_polygon((middle, middle, middle), {"triangle": 3, "square": 4}[thing.shape], turn, fill=255)
    return stencil


def _star(middle: float, turn: float) -> list[tuple[float, float]]:
    corners = []
    for corner in range(10):
        angle = np.radians(turn + 36 * corner)
        radius = middle * (1 if corner % 2 == 0 else 0.42)
        corners.append((float(middle + radius * np.sin(angle)), float(middle - radius * np.cos(angle))))
    return corners


@functools.cache
def _digit(digit: int, font: str, side: int) -> Image.Image:
    """Return a digit that fills a square from top to bottom."""
    letter = ImageFont.truetype(_font_folder() / f"{font}.ttf", side * 2)
    left, top, right, bottom = letter.getbbox(str(digit))
    height = bottom - top
    stencil = Image.new("L", (int(height), int(height)))
    pen = ImageDraw.Draw(stencil)
    pen.text(((height - (right - left)) / 2 - left, -top), str(digit), fill=255, font=letter)
    return stencil.resize((side, side))


def _font_folder() -> Path:
    """Return matplotlib's own fonts: the same files on every machine."""
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf"
