"""A recipe: one choice at each place plus its numbers, as plain data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    SerializationInfo,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_serializer,
    model_serializer,
    model_validator,
)

from eckart.errors import RecipeError
from eckart.methods.allocation import ALLOCATIONS, Allocation, Needs, OwnMeasurement, Uniform
from eckart.methods.choice import ALL_FIELDS, expand_name
from eckart.methods.distillation import AnyDistillation, NoDistillation
from eckart.methods.layout import Layout
from eckart.methods.objectives import OBJECTIVES, InputSource, Objective
from eckart.methods.pairs import AnyPairs, NoPairs
from eckart.methods.precision import AnyPrecision, Bits16
from eckart.methods.preparation import AnyPreparation, NoPreparation
from eckart.methods.refinement import AnyRefinement, NoRefinement
from eckart.methods.sharing import AnySharing, Separate
from eckart.methods.solver import AnySolver, Exact
from eckart.methods.structure import STRUCTURES, Structure, TwoFactor
from eckart.methods.targets import Target, parse_targets, parse_towers

HALF_MADE = {"half-made": True}  # the context in which a recipe is validated whose choices need not go together yet


class Recipe(BaseModel):
    """What is done to a model. It is stored in the checkpoint that it made, and round-trips through YAML.

    Attributes:
        version: of this form.
        name: by which people know it.
        reference: what it is, in a few words, and what of the paper is not in it.
        paper: title of the paper that it is from; empty if there is none.
        arxiv: number of that paper, such as ``2403.07378``.
        year: in which it appeared.
        objective: what is minimised.
        allocation: which rank goes where.
        sharing: which linears share a basis.
        structure: how a weight of some rank is laid out.
        pairs: whether widths between linears shrink, in place of all that.
        precision: how its numbers are stored.
        embedding: how the rows of the embedding are, and those of a head over the same vocabulary.
        solver: how the equation is solved for a linear whose rank is known.
        preparation: how a dense block is trained before its linears are factored, whose ranks are known.
        refinement: how a block is trained once its linears are factored.
        distillation: how the model is trained once all blocks are.
        targets: what patterns of linears become, in order: later ones win. Of a mapping from patterns to ``leave``,
            ``take``, ``{keep: share}`` or ``{rank: number}``, or a list of such mappings.
        towers: the share of its bytes that each tower keeps, or ``leave``; ``targets`` win over it.

    Raises:
        RecipeError: two of the choices do not go together.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    version: Literal[1] = 1
    name: str = "custom"
    reference: str = ""
    paper: str = ""
    arxiv: str = Field("", pattern=r"^(\d{4}\.\d{4,5})?$")
    year: int | None = None
    objective: Annotated[SerializeAsAny[Objective], BeforeValidator(OBJECTIVES.parse)]
    allocation: Annotated[SerializeAsAny[Allocation], BeforeValidator(ALLOCATIONS.parse)] = Field(
        default_factory=Uniform
    )
    sharing: Annotated[AnySharing, Discriminator("name"), BeforeValidator(expand_name)] = Field(
        default_factory=Separate
    )
    structure: Annotated[SerializeAsAny[Structure], BeforeValidator(STRUCTURES.parse)] = Field(
        default_factory=TwoFactor
    )
    pairs: Annotated[AnyPairs, Discriminator("name"), BeforeValidator(expand_name)] = Field(default_factory=NoPairs)
    precision: Annotated[AnyPrecision, Discriminator("name"), BeforeValidator(expand_name)] = Field(
        default_factory=Bits16
    )
    embedding: Annotated[AnyPrecision, Discriminator("name"), BeforeValidator(expand_name)] = Field(
        default_factory=Bits16
    )
    solver: Annotated[AnySolver, Discriminator("name"), BeforeValidator(expand_name)] = Field(default_factory=Exact)
    preparation: Annotated[AnyPreparation, Discriminator("name"), BeforeValidator(expand_name)] = Field(
        default_factory=NoPreparation
    )
    refinement: Annotated[AnyRefinement, Discriminator("name"), BeforeValidator(expand_name)] = Field(
        default_factory=NoRefinement
    )
    distillation: Annotated[AnyDistillation, Discriminator("name"), BeforeValidator(expand_name)] = Field(
        default_factory=NoDistillation
    )

    targets: Annotated[tuple[Target, ...], BeforeValidator(parse_targets)] = ()
    towers: Annotated[tuple[Target, ...], BeforeValidator(parse_towers)] = ()

    @field_serializer("targets")
    def _targets_in_order(self, targets: tuple[Target, ...]) -> list[dict[str, Any]]:
        # No mapping: some files are written with their keys sorted, and the order counts.
        return [{target.pattern: target.size} for target in targets]

    @field_serializer("towers")
    def _towers_by_name(self, towers: tuple[Target, ...]) -> dict[str, Any]:
        return {tower.pattern: tower.size if tower.keep is None else tower.keep for tower in towers}

    @model_serializer(mode="wrap")
    def _without_what_is_not_said(
        self, write: SerializerFunctionWrapHandler, info: SerializationInfo
    ) -> dict[str, Any]:
        # As before there were these: files of runs without them stay the same to the byte.
        unsaid = {k for k in ("targets", "towers") if not getattr(self, k)}
        if info.context != ALL_FIELDS:
            defaults = (
                ("solver", Exact()),
                ("embedding", Bits16()),
                ("pairs", NoPairs()),
                ("preparation", NoPreparation()),
            )
            unsaid |= {k for k, default in defaults if getattr(self, k) == default}
        return {k: v for k, v in write(self).items() if k not in unsaid}

    @model_validator(mode="after")
    def _choices_go_together(self, info: ValidationInfo) -> Self:
        if info.context == HALF_MADE:
            return self
        _ = self.layout  # which raises if its parts do not go together
        for problem in self.conflicts():
            raise RecipeError(problem)
        return self

    def conflicts(self) -> Iterator[str]:
        """Yield which choices do not go together, and why; they are asked, and not told apart by their classes."""
        objective, allocation, structure = self.objective, self.allocation, self.structure
        yield from self._conflicts_of_pairs()
        yield from self._conflicts_of_preparation()
        # Weights of tokens are measured before anything is compressed, and nowhere else.
        found = {
            f"objective {objective.name!r}": not objective.takes_token_weights,
            "an affine objective": objective.adds_bias,
            f"allocation {allocation.name!r}": not allocation.solves_first,
            f"structure {structure.name!r}": structure.fits_itself,
            f"sharing {self.sharing.name!r}": self.sharing.measures,
        }
        wrong = [what for what, is_wrong in found.items() if is_wrong] if self.weighs_tokens else []
        for what in wrong:
            yield (
                f"A metric with token_weights 'gradient' solves the equation before anything is compressed; found "
                f"{what}. Use objective input-aware, allocation curvature, and factors alone, or "
                "objective.metric.token_weights=equal."
            )
        whole = {
            f"objective {objective.name!r}": objective.observes_outputs,
            f"allocation {allocation.label}": allocation.truncates_outputs,
        }
        for what in (what for what, looks in whole.items() if looks and self.sharing.fuses_experts):
            yield (
                f"The experts of a block with one basis give the outputs of one expert at a time, and {what} looks at "
                "those of a whole layer. Use sharing=separate, or another objective and allocation, such as "
                "input-aware and uniform."
            )
        unsolved = {
            f"objective {objective.name!r} solves no equation": objective.observes_outputs,
            f"ranks of allocation {allocation.label} follow from its whole solution": self.solves_once,
        }
        for why in (why for why, is_so in unsolved.items() if is_so and self.solver.sketches):
            yield (
                f"Solver {self.solver.name!r} finds some components of an equation when the rank is known, and {why}. "
                "Use solver=exact."
            )
        trained = self.distillation.training
        few_bits = structure.own_precision or self.precision.scheme is not None
        if trained is not None and trained.adapts_factors and few_bits:
            yield (
                f"Distillation {self.distillation.name!r} adds adapters to the numbers of factors, and structure "
                f"{structure.name!r} with precision {self.precision.name!r} stores them in few bits. Use "
                "precision=16-bit and another structure, such as two-factor, or distillation=logits."
            )
        if structure.adds_to_base and allocation.truncates:
            yield (
                f"Allocation {allocation.label} runs the model with weights truncated to a rank, and in structure "
                f"{structure.name!r} a rank truncates only what the base lacks. Use another allocation, such as "
                "uniform or curvature."
            )
        if allocation.chooses_bases and not structure.adds_to_base:
            yield (
                f"Allocation {allocation.label} chooses a base for each layer, and structure {structure.name!r} has "
                "none. Use structure=hybrid."
            )
        if allocation.chooses_sparsities and not structure.takes_sparsity:
            yield (
                f"Allocation {allocation.label} chooses how many numbers of each layer are there, and structure "
                f"{structure.name!r} has no choice of that. Use structure=dictionary with the pattern any."
            )
        if structure.fits_itself and objective.observes_outputs:
            yield (
                f"Objective {objective.name!r} gives a projection and no loss of a weight, which structure "
                f"{structure.name!r} minimises. Use another objective, such as input-aware."
            )

    def _conflicts_of_pairs(self) -> Iterator[str]:
        """Yield what does not go with widths that shrink, where nothing is factored."""
        objective, allocation, trained = self.objective, self.allocation, self.distillation.training
        share = allocation.needs in (Needs.NONE, Needs.SIMILARITY) and allocation.own_measurement is OwnMeasurement.NONE
        found = {
            f"objective {objective.name!r}": not objective.needs_data or objective.observes_outputs,
            "an affine objective": objective.adds_bias,
            "an output metric": objective.output_metric is not None,
            f"allocation {allocation.name!r}": not share,
            f"structure {self.structure.name!r}": self.structure != TwoFactor(),
            f"sharing {self.sharing.name!r}": self.sharing != Separate(),
            f"precision {self.precision.name!r}": self.precision.scheme is not None,
            f"solver {self.solver.name!r}": self.solver.sketches,
            f"distillation {self.distillation.name!r}": trained is not None and trained.adapts_factors,
            "a target or a tower with a size of its own": any(
                target.keep is not None or target.rank is not None for target in (*self.targets, *self.towers)
            ),
        }
        for what in (what for what, is_so in found.items() if is_so and self.pairs.narrows):
            yield (
                f"pairs={self.pairs.name} shrinks widths between linears and factors none, and {what} does not go with "
                "that. Use an objective with data, such as input-aware, allocation uniform, importance or "
                "block-influence, and all else as it is by default; or pairs=none."
            )

    def _conflicts_of_preparation(self) -> Iterator[str]:
        """Yield what does not go with weights that are drawn to low rank before they are factored."""
        objective, allocation = self.objective, self.allocation
        found = {
            f"objective {objective.name!r} looks at no data": not objective.needs_data,
            f"objective {objective.name!r} solves no equation of a weight": objective.observes_outputs,
            "an affine objective moves the means": objective.adds_bias,
            "a metric with token_weights 'gradient' solves it before": self.weighs_tokens,
            f"allocation {allocation.label} factors other weights than the original ones": allocation.changes_weights,
            f"structure {self.structure.name!r} is no weight of low rank alone": self.structure.fits_itself,
            f"pairs={self.pairs.name} factors none": self.pairs.narrows,
            f"sharing {self.sharing.name!r} gives experts one basis": self.sharing.fuses_experts,
        }
        for why in (why for why, is_so in found.items() if is_so and self.preparation.training is not None):
            yield (
                f"Preparation {self.preparation.name!r} draws the original weights towards what the equation will cut "
                f"from them, and {why}. Use an objective with data, such as input-aware, two factors or pivots, or "
                "preparation=none."
            )

    @property
    def citation(self) -> str:
        """The paper that it is from, in one line; empty if there is none."""
        number = f"arXiv {self.arxiv}" if self.arxiv else ""
        where = ", ".join(part for part in (number, str(self.year or "")) if part)
        return f"{self.paper} ({where})" if self.paper and where else self.paper

    @property
    def needs_data(self) -> bool:
        """Whether calibration tokens are looked at."""
        places = (self.objective, self.allocation, self.refinement, self.distillation)
        return any(place.needs_data for place in places)

    @property
    def weighs_tokens(self) -> bool:
        """Whether tokens count differently in the equation, which is then solved while ranks are chosen."""
        metric = self.objective.output_metric
        return metric is not None and metric.weighs_tokens

    @property
    def ranks_are_of_the_same_equation(self) -> bool:
        """Whether ranks follow from the equation that layers are made by, so that it need not be solved again."""
        objective, sharing = self.objective, self.sharing
        original_alone = objective.input_source is InputSource.ORIGINAL and not objective.observes_outputs
        same = original_alone and self.preparation.training is None
        return same and self.allocation.solves_first and not (sharing.fuses or sharing.measures)

    @property
    def solves_once(self) -> bool:
        """Whether layers are made of a solution that was found for their ranks."""
        return self.weighs_tokens or (self.ranks_are_of_the_same_equation and not self.structure.fits_itself)

    @property
    def has_metric(self) -> bool:
        """Whether errors of linears or of blocks are measured in a metric of outputs."""
        return self.objective.output_metric is not None or self.refinement.output_metric is not None

    @property
    def layout(self) -> Layout:
        """What a linear costs, and what it becomes."""
        return Layout(self.structure, self.precision, self.objective.adds_bias)

    def to_yaml(self) -> str:
        """Return the recipe as YAML that :func:`eckart.load_recipe` reads back."""
        return yaml.safe_dump(self.model_dump(), sort_keys=False)
