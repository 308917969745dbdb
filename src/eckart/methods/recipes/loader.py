"""Finds a recipe by its name or in a file, and changes fields of it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from eckart.errors import RecipeError, suggest
from eckart.files.decoding import decode
from eckart.files.plain_yaml import MAX_CHARACTERS, PlainYamlError, parse_yaml
from eckart.methods.allocation import ALLOCATIONS
from eckart.methods.choice import ALL_FIELDS, Choice
from eckart.methods.distillation import AnyDistillation
from eckart.methods.objectives import OBJECTIVES
from eckart.methods.precision import AnyPrecision
from eckart.methods.preparation import AnyPreparation
from eckart.methods.recipe import HALF_MADE, Recipe
from eckart.methods.recipes.eckart import BY_BUDGET, for_budget
from eckart.methods.recipes.published import RECIPES
from eckart.methods.refinement import AnyRefinement
from eckart.methods.registry import name_of
from eckart.methods.sharing import AnySharing
from eckart.methods.solver import AnySolver
from eckart.methods.structure import STRUCTURES
from eckart.methods.targets import target_of

MOST_PROBLEMS = 5  # of a recipe that are told at once
PATTERNS = ("targets", "towers")  # places whose fields are not the library's names
LONGEST_VALUE = 80  # characters of a wrong value that are shown


def load_recipe(source: str | Path | Recipe, overrides: Iterable[str] = (), keep: float | None = None) -> Recipe:
    """Return a recipe by name, from a YAML file, or as given, with ``key=value`` overrides applied.

    Args:
        source: a name of :data:`RECIPES`, a path to a YAML file, or a recipe.
        overrides: such as ``objective=anchored`` or ``objective.shrinkage=0.03``.
        keep: bytes to keep, as a share, that recipes which depend on it are chosen for; by default the usual one.

    Raises:
        RecipeError: no such recipe, field or choice, or a value out of range.
    """
    recipe = source if isinstance(source, Recipe) else _find(str(source), keep)
    overrides = list(overrides)
    if not overrides:
        return recipe
    data = _all_of(recipe)
    for override in overrides:
        _override(data, override)
        # A choice that was set by its name gets its numbers, which the next override may set.
        data = _all_of(_validate(data, "after --set", HALF_MADE))
    data["name"] = f"{recipe.name} ({', '.join(overrides)})"
    return _validate(data, "after --set")


def _all_of(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe's data, with what its files leave out where it is the usual one."""
    return recipe.model_dump(context=ALL_FIELDS)


def _find(source: str, keep: float | None) -> Recipe:
    if source in BY_BUDGET and keep is not None:
        return for_budget(source, keep)
    if source in RECIPES:
        return RECIPES[source]
    path = Path(source)
    if path.suffix not in (".yaml", ".yml"):
        raise RecipeError(f"No recipe is called {source!r}{suggest(source, RECIPES)} A YAML file works too.")
    data = _read(path)
    if not isinstance(data, dict):
        found = "nothing" if data is None else type(data).__name__
        raise RecipeError(f"The recipe file {source} holds {found}, expected keys and values.")
    return _validate({"name": path.stem, **data}, f"in {source}")


def _read(path: Path) -> Any:
    if not os.path.isfile(path):  # unlike Path.is_file, False for what no file can be called
        raise RecipeError(f"The recipe file {path} cannot be read: there is no such file.")
    try:
        with path.open("rb") as file:
            return parse_yaml(decode(file.read(4 * MAX_CHARACTERS + 4)))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"The recipe file {path} cannot be read: {error}.") from error
    except PlainYamlError as error:
        raise RecipeError(f"The recipe file {path} cannot be read as YAML: {error}.") from error


def _override(data: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not text:
        raise RecipeError(f"--set takes key=value, found {override!r}. Example: --set objective.shrinkage=0.03")
    place, dot, rest = key.partition(".")
    if place in PATTERNS and dot and rest:
        entry = target_of(rest, _value(key, text)) if place == "targets" else {rest: _value(key, text)}
        data[place] = [*_entries(data.get(place, [])), entry]
        return
    *parents, last = key.split(".")
    target = data
    for parent in parents:
        if not isinstance(target.get(parent), dict):
            raise RecipeError(f"A recipe has no field {key!r}{suggest(key, _field_names(data))}")
        target = target[parent]
    if last not in target and key not in PATTERNS:
        raise RecipeError(f"This recipe has no field {key!r}{suggest(key, _field_names(data))}")
    # A new choice brings its own numbers; those of the old one mean nothing to it.
    target[last] = _value(key, text)


def _entries(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _value(key: str, text: str) -> Any:
    try:
        return parse_yaml(text)
    except PlainYamlError as error:
        raise RecipeError(
            f"The value of {key!r} cannot be read as YAML: {_shown(text)}: {error}. Example of a list: [0.4, 0.6]"
        ) from error


def _field_names(data: dict[str, Any], prefix: str = "") -> list[str]:
    names = [] if prefix else [place for place in PATTERNS if place not in data]
    for key, value in data.items():
        names.append(prefix + key)
        if isinstance(value, dict) and key not in PATTERNS:
            names += _field_names(value, f"{prefix}{key}.")
    return [name for name in names if not name.endswith("name")]


def _validate(data: dict[str, Any], where: str, context: dict[str, Any] | None = None) -> Recipe:
    try:
        return Recipe.model_validate(data, context=context)
    except ValidationError as error:
        found = error.errors()
        inside = {item["loc"][:-1] for item in found}
        # A list is too short, too, once what is wrong in it is left out.
        found = [item for item in found if item["type"] != "too_short" or item["loc"] not in inside]
        problems = [_describe(item, data, where) for item in found]
        if len(problems) > MOST_PROBLEMS:
            problems[MOST_PROBLEMS:] = [f"And {len(problems) - MOST_PROBLEMS} more."]
        raise RecipeError("\n".join(problems)) from error


def _describe(item: Any, data: dict[str, Any], where: str) -> str:
    """Turn one of pydantic's errors into a sentence with the nearest names."""
    path = [str(part) for part in item["loc"]]
    what = f"element of {path[-2]}" if len(path) > 1 and path[-1].isdigit() else path[-1]
    if item["type"] == "extra_forbidden":
        unknown = path[-1]
        fields = Recipe.model_fields if len(path) == 1 else _fields_beside(path, data)
        return f"Unknown recipe field {'.'.join(path)!r} {where}{suggest(unknown, fields)}"
    if item["type"] == "union_tag_invalid":
        choices = [choice.strip(" '") for choice in item["ctx"]["expected_tags"].split(",")]
        found = item["ctx"]["tag"]
        return f"Unknown {what} {found!r} {where}{suggest(found, choices)}"
    if item["type"] == "unknown_choice":
        found = item["ctx"]["found"]
        return f"Unknown {what} {found!r} {where}{suggest(str(found), item['ctx']['known'])}"
    if item["type"] == "missing":
        return f"The recipe lacks the field {'.'.join(path)!r} {where}."
    return f"Recipe field {'.'.join(path)!r} {where}: {item['msg']}, found {_shown(item['input'])}."


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."


def _fields_beside(path: list[str], data: dict[str, Any]) -> list[str]:
    """Return the fields of the choice that the last part of ``path`` is not a field of."""
    places: dict[str, Mapping[str, type[Choice]]] = {
        "objective": OBJECTIVES,
        "allocation": ALLOCATIONS,
        "sharing": _by_name(AnySharing.__args__),
        "structure": STRUCTURES,
        "precision": _by_name(AnyPrecision.__args__),
        "embedding": _by_name(AnyPrecision.__args__),
        "solver": _by_name(AnySolver.__args__),
        "preparation": _by_name(AnyPreparation.__args__),
        "refinement": _by_name(AnyRefinement.__args__),
        "distillation": _by_name(AnyDistillation.__args__),
    }
    choice = data.get(path[0])
    name = choice.get("name") if isinstance(choice, dict) else choice
    known = places.get(path[0], {})
    if not isinstance(name, str) or name not in known:
        return []
    return [field for field in known[name].model_fields if field != "name"]


def _by_name(choices: Iterable[type[Choice]]) -> dict[str, type[Choice]]:
    return {name_of(choice): choice for choice in choices}
