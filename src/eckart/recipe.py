"""A recipe: one choice at each place plus its numbers, as plain data."""

from __future__ import annotations

from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field

from eckart.allocation import AnyAllocation, Uniform
from eckart.choice import expand_name
from eckart.layout import Layout
from eckart.objectives import AnyObjective
from eckart.precision import AnyPrecision, Bits16
from eckart.refinement import AnyRefinement, NoRefinement
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
        return Layout(self.structure, self.precision, self.objective.adds_bias)

    def to_yaml(self) -> str:
        """Return the recipe as YAML that :func:`eckart.load_recipe` reads back."""
        return yaml.safe_dump(self.model_dump(), sort_keys=False)
