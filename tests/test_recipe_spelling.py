"""Recipe files that the first version printed are read for ever, and mean the same recipes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import eckart

FILES = sorted((Path(__file__).parent / "fixtures" / "recipes").glob("*.yaml"))
# What a recipe is called and where it is from may be told in other words.
PLACES = ("objective", "allocation", "sharing", "structure", "precision", "refinement", "distillation")


# Of names that mean another recipe now, what they meant.
THEN = {"eckart-fast@0.2": ("saes-svd", ["structure=pivoted", "allocation.fill_budget=true", "allocation.multiple=8"])}


def choices(recipe: eckart.Recipe) -> list[Any]:
    return [getattr(recipe, place) for place in PLACES]


def named(path: Path) -> eckart.Recipe:
    """Return the recipe that a file was printed of."""
    name, _, keep = path.stem.partition("@")
    if path.stem in THEN:
        return eckart.load_recipe(*THEN[path.stem])
    return eckart.load_recipe(name, keep=float(keep or 0.8))


def fields(data: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield all fields of the choices, as ``--set`` takes them."""
    for key, value in data.items():
        if isinstance(value, dict):
            yield from fields(value, f"{prefix}{key}.")
        elif prefix:
            yield f"{prefix}{key}={json.dumps(value)}"


def test_every_named_recipe_was_printed() -> None:
    # Every one of then; there may be new ones.
    assert len(FILES) == 34
    assert {path.stem.partition("@")[0] for path in FILES} <= set(eckart.RECIPES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_is_still_that_recipe(path: Path) -> None:
    loaded = eckart.load_recipe(path)
    assert loaded.name == path.stem.partition("@")[0]
    assert choices(loaded) == choices(named(path))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_field_of_then_can_be_set(path: Path) -> None:
    printed = yaml.safe_load(path.read_text(encoding="utf-8"))
    overrides = list(fields(printed))
    assert len(overrides) > len(PLACES)
    assert choices(eckart.load_recipe(path, overrides)) == choices(named(path))
