"""A recipe: one choice at each place plus its numbers, as plain data. The named recipes are one literal table."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, ValidationError

from eckart.allocation import (
    AnyAllocation,
    Curvature,
    Importance,
    Learned,
    Search,
    TruncationLoss,
    Uniform,
    ZeroSum,
)
from eckart.choice import expand_name
from eckart.errors import RecipeError, suggest
from eckart.layout import Layout
from eckart.metric import Fisher
from eckart.objectives import (
    ActivationScaled,
    Anchored,
    AnyObjective,
    Blended,
    InputAware,
    PrincipalOutputs,
    ShiftAware,
    Weight,
)
from eckart.precision import AnyPrecision, Bits4, Bits8, Bits16
from eckart.refinement import AnyRefinement, BlockRefinement, NoRefinement
from eckart.structure import AnyStructure, TwoFactor


class Recipe(BaseModel):
    """What is done to a model. It is stored in the checkpoint that it made, and round-trips through YAML."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    name: str = "custom"
    reference: str = ""
    objective: Annotated[AnyObjective, Discriminator("name"), BeforeValidator(expand_name)]
    allocation: Annotated[AnyAllocation, Discriminator("name"), BeforeValidator(expand_name)] = Field(
        default_factory=Uniform
    )
    structure: Annotated[AnyStructure, Discriminator("name"), BeforeValidator(expand_name)] = Field(
        default_factory=TwoFactor
    )
    precision: Annotated[AnyPrecision, Discriminator("name"), BeforeValidator(expand_name)] = Field(
        default_factory=Bits16
    )
    refinement: Annotated[AnyRefinement, Discriminator("name"), BeforeValidator(expand_name)] = Field(
        default_factory=NoRefinement
    )

    @property
    def needs_data(self) -> bool:
        """Whether calibration tokens are looked at."""
        return self.objective.needs_data or self.allocation.needs_data or self.refinement.needs_data

    @property
    def layout(self) -> Layout:
        """What a linear costs, and what it becomes."""
        return Layout(self.structure, self.precision)

    def to_yaml(self) -> str:
        """Return the recipe as YAML that :func:`load_recipe` reads back."""
        return yaml.safe_dump(self.model_dump(), sort_keys=False)


AS_PUBLISHED = Uniform(multiple=1)  # papers do not round ranks

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="svd",
            reference="Eckart and Young 1936: truncated SVD of the weight",
            objective=Weight(),
            allocation=AS_PUBLISHED,
        ),
        Recipe(
            name="svd-llm",
            reference="SVD-LLM (arXiv 2403.07378), whitening only",
            objective=InputAware(),
            allocation=AS_PUBLISHED,
        ),
        Recipe(
            name="dobi-shift",
            reference="the shift-aware objective of Dobi-SVD (arXiv 2502.02723) and AA-SVD, uniform ranks",
            objective=ShiftAware(),
            allocation=AS_PUBLISHED,
        ),
        Recipe(
            name="aa-svd-layer",
            reference="AA-SVD (arXiv 2604.02119), anchored objective without block refinement",
            objective=Anchored(),
            allocation=AS_PUBLISHED,
        ),
        Recipe(
            name="aa-svd",
            reference="AA-SVD (arXiv 2604.02119), input-aware objective with block refinement: its headline",
            objective=InputAware(),
            allocation=AS_PUBLISHED,
            refinement=BlockRefinement(),
        ),
        Recipe(
            name="aa-svd-anchored",
            reference="AA-SVD (arXiv 2604.02119), anchored objective with block refinement",
            objective=Anchored(),
            allocation=AS_PUBLISHED,
            refinement=BlockRefinement(),
        ),
        Recipe(
            name="saes-svd",
            reference="SAES-SVD (arXiv 2602.03051), cumulative errors with adaptive blend",
            objective=Blended(),
            allocation=AS_PUBLISHED,
        ),
        Recipe(
            name="asvd",
            reference="ASVD (arXiv 2312.05821), activation-scaled with searched ranks",
            objective=ActivationScaled(),
            allocation=Search(multiple=1),
        ),
        Recipe(
            name="svd-llm-v2",
            reference="SVD-LLM V2 (arXiv 2503.12340), ranks by truncation loss",
            objective=InputAware(),
            allocation=TruncationLoss(multiple=1),
        ),
        Recipe(
            name="adasvd",
            reference="AdaSVD (arXiv 2502.01403), ranks by importance; its alternating update ends at input-aware",
            objective=InputAware(),
            allocation=Importance(multiple=1),
        ),
        Recipe(
            name="dobi-svd",
            reference="Dobi-SVD (arXiv 2502.02723), trained truncation positions",
            objective=PrincipalOutputs(),
            allocation=Learned(multiple=1),
        ),
        Recipe(
            name="zs-svd",
            reference="ZS-SVD (arXiv 2602.02848), one shot",
            objective=InputAware(),
            allocation=ZeroSum(multiple=1),
        ),
        Recipe(
            name="zs-svd-staged",
            reference="ZS-SVD (arXiv 2602.02848), truncate, correct, truncate again: its 5x",
            objective=InputAware(),
            allocation=ZeroSum(multiple=1, stages=6),
        ),
        Recipe(
            name="zs-svd-hq",
            reference="ZS-SVD (arXiv 2602.02848), its HQ variant: half as much is truncated, all is stored in 8 bits",
            objective=InputAware(),
            allocation=ZeroSum(multiple=1),
            precision=Bits8(feedback=False),
        ),
        Recipe(
            name="io-svd",
            reference="IO-SVD (arXiv 2605.15626), input and output curvature; ranks on the convex hull",
            objective=InputAware(metric=Fisher(top_k=5)),
            allocation=Curvature(multiple=1),
        ),
        Recipe(
            name="int8",
            reference="no factors while 8 bits with a scale a row are few enough: a baseline",
            objective=Weight(),
            allocation=AS_PUBLISHED,
            precision=Bits8(feedback=False),
        ),
        Recipe(
            name="int4",
            reference="no factors while 4 bits with a scale for 32 numbers are few enough: a baseline",
            objective=Weight(),
            allocation=AS_PUBLISHED,
            precision=Bits4(feedback=False),
        ),
        Recipe(
            name="gptq",
            reference="GPTQ (arXiv 2210.17323), 4 bits with a scale for 32 numbers: a baseline",
            objective=InputAware(),
            allocation=AS_PUBLISHED,
            precision=Bits4(),
        ),
    )
}

DEFAULT_RECIPE = "saes-svd"  # the best of them on validation text, see benchmarks/RESULTS.md


def load_recipe(source: str | Path | Recipe, overrides: Iterable[str] = ()) -> Recipe:
    """Return a recipe by name, from a YAML file, or as given, with ``key=value`` overrides applied.

    Args:
        source: a name of :data:`RECIPES`, a path to a YAML file, or a recipe.
        overrides: such as ``objective=anchored`` or ``objective.shrinkage=0.03``.

    Raises:
        RecipeError: no such recipe, field or choice, or a value out of range.
    """
    recipe = source if isinstance(source, Recipe) else _find(str(source))
    overrides = list(overrides)
    if not overrides:
        return recipe
    data = recipe.model_dump()
    for override in overrides:
        _override(data, override)
        # A choice that was set by its name gets its numbers, which the next override may set.
        data = _validate(data, "after --set").model_dump()
    data["name"] = f"{recipe.name} ({', '.join(overrides)})"
    return _validate(data, "after --set")


def _find(source: str) -> Recipe:
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
    target[last] = yaml.safe_load(text)


def _field_names(data: dict[str, Any], prefix: str = "") -> list[str]:
    names = []
    for key, value in data.items():
        names.append(prefix + key)
        if isinstance(value, dict):
            names += _field_names(value, f"{prefix}{key}.")
    return [name for name in names if not name.endswith("name")]


def _validate(data: dict[str, Any], where: str) -> Recipe:
    try:
        return Recipe.model_validate(data)
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
        return f"Unknown {path[0]} {found!r} {where}{suggest(found, choices)}"
    if item["type"] == "missing":
        return f"The recipe lacks the field {'.'.join(path)!r} {where}."
    return f"Recipe field {'.'.join(path)!r} {where}: {item['msg']}, found {item['input']!r}."


def _fields_beside(path: list[str], data: dict[str, Any]) -> list[str]:
    """Return the fields of the choice that the last part of ``path`` is not a field of."""
    place = {
        "objective": AnyObjective.__args__,
        "allocation": AnyAllocation.__args__,
        "structure": AnyStructure.__args__,
        "precision": AnyPrecision.__args__,
        "refinement": AnyRefinement.__args__,
    }
    choice = data.get(path[0])
    name = choice.get("name") if isinstance(choice, dict) else choice
    for model in place.get(path[0], ()):
        if model.model_fields["name"].default == name:
            return [field for field in model.model_fields if field != "name"]
    return []
