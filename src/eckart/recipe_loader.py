"""Finds a recipe by its name or in a file, and changes fields of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from eckart.allocation import ALLOCATIONS
from eckart.choice import Choice
from eckart.distillation import AnyDistillation
from eckart.errors import RecipeError, suggest
from eckart.objectives import OBJECTIVES
from eckart.own_recipes import BY_BUDGET, for_budget
from eckart.precision import AnyPrecision
from eckart.recipe import HALF_MADE, Recipe
from eckart.recipe_table import RECIPES
from eckart.refinement import AnyRefinement
from eckart.registry import name_of
from eckart.sharing import AnySharing
from eckart.structure import STRUCTURES


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
    data = recipe.model_dump()
    for override in overrides:
        _override(data, override)
        # A choice that was set by its name gets its numbers, which the next override may set.
        data = _validate(data, "after --set", HALF_MADE).model_dump()
    data["name"] = f"{recipe.name} ({', '.join(overrides)})"
    return _validate(data, "after --set")


def _find(source: str, keep: float | None) -> Recipe:
    if source in BY_BUDGET and keep is not None:
        return for_budget(source, keep)
    if source in RECIPES:
        return RECIPES[source]
    path = Path(source)
    if path.suffix not in (".yaml", ".yml"):
        raise RecipeError(f"No recipe is called {source!r}{suggest(source, RECIPES)} A YAML file works too.")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"The recipe file {source} cannot be read: {error}.") from error
    except yaml.YAMLError as error:
        raise RecipeError(f"The recipe file {source} is not YAML: {error}") from error
    if not isinstance(data, dict):
        raise RecipeError(f"The recipe file {source} holds {type(data).__name__}, expected keys and values.")
    return _validate({"name": path.stem, **data}, f"in {source}")


def _override(data: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not text:
        raise RecipeError(f"--set takes key=value, found {override!r}. Example: --set objective.shrinkage=0.03")
    *parents, last = key.split(".")
    target = data
    for parent in parents:
        if not isinstance(target.get(parent), dict):
            raise RecipeError(f"A recipe has no field {key!r}{suggest(key, _field_names(data))}")
        target = target[parent]
    if last not in target:
        raise RecipeError(f"This recipe has no field {key!r}{suggest(key, _field_names(data))}")
    # A new choice brings its own numbers; those of the old one mean nothing to it.
    try:
        target[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"The value of {key!r} is not YAML: {text!r}. Example of a list: [0.4, 0.6]") from error


def _field_names(data: dict[str, Any], prefix: str = "") -> list[str]:
    names = []
    for key, value in data.items():
        names.append(prefix + key)
        if isinstance(value, dict):
            names += _field_names(value, f"{prefix}{key}.")
    return [name for name in names if not name.endswith("name")]


def _validate(data: dict[str, Any], where: str, context: dict[str, Any] | None = None) -> Recipe:
    try:
        return Recipe.model_validate(data, context=context)
    except ValidationError as error:
        raise RecipeError("\n".join(_describe(item, data, where) for item in error.errors())) from error


def _describe(item: Any, data: dict[str, Any], where: str) -> str:
    """Turn one of pydantic's errors into a sentence with the nearest names."""
    path = [str(part) for part in item["loc"]]
    if item["type"] == "extra_forbidden":
        unknown = path[-1]
        fields = Recipe.model_fields if len(path) == 1 else _fields_beside(path, data)
        return f"Unknown recipe field {'.'.join(path)!r} {where}{suggest(unknown, fields)}"
    if item["type"] == "union_tag_invalid":
        choices = [choice.strip(" '") for choice in item["ctx"]["expected_tags"].split(",")]
        found = item["ctx"]["tag"]
        return f"Unknown {path[-1]} {found!r} {where}{suggest(found, choices)}"
    if item["type"] == "unknown_choice":
        found = item["ctx"]["found"]
        return f"Unknown {path[-1]} {found!r} {where}{suggest(str(found), item['ctx']['known'])}"
    if item["type"] == "missing":
        return f"The recipe lacks the field {'.'.join(path)!r} {where}."
    return f"Recipe field {'.'.join(path)!r} {where}: {item['msg']}, found {item['input']!r}."


def _fields_beside(path: list[str], data: dict[str, Any]) -> list[str]:
    """Return the fields of the choice that the last part of ``path`` is not a field of."""
    places: dict[str, Mapping[str, type[Choice]]] = {
        "objective": OBJECTIVES,
        "allocation": ALLOCATIONS,
        "sharing": _by_name(AnySharing.__args__),
        "structure": STRUCTURES,
        "precision": _by_name(AnyPrecision.__args__),
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
