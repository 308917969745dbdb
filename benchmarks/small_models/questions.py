"""Questions about a scene, their answers, and its caption."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from small_models.pictures import COLOURS, COLUMNS, DIGIT, GRID, ROWS, SHAPES, SIZES, Scene, Thing

NUMBERS = tuple(str(number) for number in range(10))
NOTHING = "nothing"
SIDES = {"left of": (0, -1), "right of": (0, 1), "above": (-1, 0), "below": (1, 0)}
CAPTION = "describe the picture"


@dataclass(frozen=True)
class Question:
    """A question and its answer; words have spaces between them. ``kind`` is one of :data:`KINDS`, or ``caption``."""

    kind: str
    text: str
    answer: str


def ask(scene: Scene, draw: random.Random, kind: str) -> Question | None:
    """Return a question of a kind about a scene, or None where the scene has no clear answer to any."""
    found = KINDS[kind](scene, draw)
    return None if found is None else Question(kind, *found)


def questions_about(scene: Scene, draw: random.Random, count: int) -> list[Question]:
    """Return up to ``count`` questions of different kinds, in an order that is drawn."""
    kinds = draw.sample(list(KINDS), len(KINDS))
    asked = (ask(scene, draw, kind) for kind in kinds)
    return [question for question in asked if question is not None][:count]


def caption_of(scene: Scene) -> Question:
    """Return the question that asks for all things in reading order, and the caption.

    A caption says first where a thing is: what it is can then be read off that place.
    """
    return Question("caption", CAPTION, " ".join(_described(thing) for thing in scene.things))


def vocabulary() -> list[str]:
    """Return every word of all questions and answers, sorted."""
    words = "describe the picture what digit is colour in how many there where a or yes no are"
    return sorted(
        {
            *words.split(),
            *(f"{shape}s" for shape in SHAPES),
            *SHAPES,
            *COLOURS,
            *SIZES,
            *ROWS,
            *COLUMNS,
            *NUMBERS,
            *" ".join(SIDES).split(),
            NOTHING,
        }
    )


def _described(thing: Thing) -> str:
    """Return a thing with all that is to be said about it."""
    return f"{thing.place} {thing.size} {thing.colour} {thing.shape if thing.digit is None else thing.digit}"


def _named(thing: Thing | None) -> str:
    return NOTHING if thing is None else thing.shape


def _known_by(scene: Scene, *fields: str) -> list[Thing]:
    """Return the things that no other one of the scene equals in these fields."""
    values = [tuple(getattr(thing, field) for field in fields) for thing in scene.things]
    return [thing for thing, value in zip(scene.things, values, strict=True) if values.count(value) == 1]


Answered = tuple[str, str] | None


def _digit(scene: Scene, draw: random.Random) -> Answered:
    found = [thing.digit for thing in scene.things if thing.digit is not None]
    return ("what digit is there", str(found[0])) if found else None


def _colour(scene: Scene, draw: random.Random) -> Answered:
    clear = _known_by(scene, "shape")
    if not clear:
        return None
    thing = draw.choice(clear)
    return f"what colour is the {thing.shape}", thing.colour


def _shape(scene: Scene, draw: random.Random) -> Answered:
    row, column = draw.randrange(GRID), draw.randrange(GRID)
    if scene.at(row, column) is None and draw.random() < 0.7:  # else every other answer would be that there is nothing
        thing = draw.choice(scene.things)
        row, column = thing.row, thing.column
    return f"what is in the {ROWS[row]} {COLUMNS[column]}", _named(scene.at(row, column))


def _count(scene: Scene, draw: random.Random) -> Answered:
    shapes = sorted({thing.shape for thing in scene.things} - {DIGIT}) or list(SHAPES)
    shape = draw.choice(shapes if draw.random() < 0.75 else SHAPES)  # else every other answer would be none
    return f"how many {shape}s are there", str(sum(thing.shape == shape for thing in scene.things))


def _place(scene: Scene, draw: random.Random) -> Answered:
    clear = _known_by(scene, "shape")
    if not clear:
        return None
    thing = draw.choice(clear)
    return f"where is the {thing.shape}", thing.place


def _size(scene: Scene, draw: random.Random) -> Answered:
    clear = _known_by(scene, "colour", "shape")
    if not clear:
        return None
    thing = draw.choice(clear)
    return f"is the {thing.colour} {thing.shape} small or large", thing.size


def _relation(scene: Scene, draw: random.Random) -> Answered:
    possible: dict[bool, list[tuple[str, str]]] = {True: [], False: []}
    for thing in _known_by(scene, "shape"):
        for side, (down, across) in SIDES.items():
            row, column = thing.row + down, thing.column + across
            if 0 <= row < GRID and 0 <= column < GRID:
                other = scene.at(row, column)
                possible[other is not None].append((f"what is {side} the {thing.shape}", _named(other)))
    something = draw.random() < 0.8
    chosen = possible[something] or possible[not something]
    return draw.choice(chosen) if chosen else None


def _presence(scene: Scene, draw: random.Random) -> Answered:
    present = {(thing.colour, thing.shape) for thing in scene.things}
    if draw.random() < 0.5:
        colour, shape = draw.choice(sorted(present))
        return f"is there a {colour} {shape}", "yes"
    # What is not there is made of a shape and a colour that are there, where that can be: no word gives it away.
    near = sorted({(c, s) for c, _ in present for _, s in present} - present)
    far = sorted({(colour, shape) for colour in COLOURS for shape in (*SHAPES, DIGIT)} - present)
    colour, shape = draw.choice(near or far)
    return f"is there a {colour} {shape}", "no"


KINDS: dict[str, Callable[[Scene, random.Random], Answered]] = {
    "digit": _digit,
    "colour": _colour,
    "shape": _shape,
    "count": _count,
    "place": _place,
    "size": _size,
    "relation": _relation,
    "presence": _presence,
}
