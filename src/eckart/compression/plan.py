"""What will be done to a model, before anything is done: its blocks, their linears and the ranks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Real
from typing import TYPE_CHECKING

from eckart.blocks.block import Block, LinearRef
from eckart.blocks.block_arguments import Inputs, completed
from eckart.blocks.discovery import find_blocks
from eckart.blocks.expert_stacks import contract, expand
from eckart.blocks.fuse import Fusion, fusable, fusable_experts, fuse, unfuse
from eckart.blocks.onload import ResidentWeights, WeightSource
from eckart.blocks.pairs import Part
from eckart.compression.embedding import bytes_of_tables
from eckart.compression.paired import pairs_alone
from eckart.compression.targets import Targets, choose_targets, named_outside, together
from eckart.data.calibration import Calibration
from eckart.data.samples import IDS, LABELS
from eckart.errors import EckartError, UnsupportedModelError
from eckart.layers import fused_layers
from eckart.layers.vocabulary import Vocabulary, find_vocabulary
from eckart.methods.allocation import Budgets, Needs, Outlook
from eckart.methods.layout import BYTES_PER_NUMBER, Layout
from eckart.methods.precision import AnyBase, AnyPrecision, Bits16
from eckart.methods.recipe import Recipe
from eckart.methods.sensitivity.layer_statistics import shapes_of
from eckart.methods.targets import Size

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Plan:
    """What is done to a model: the recipe, the blocks, and a rank for each linear in them.

    Attributes:
        recipe: what is done.
        keep: bytes of the linears to keep that have no size of their own, as was asked for.
        blocks: with their groups, in order of execution. Linears that the recipe leaves as they are are in none.
        ranks: by path; None where the linear stays dense.
        parameters: of the whole model as it is, those that its files hold.
        own: sizes of the linears that have one of their own, by path.
        left: paths of the linears that the recipe leaves as they are.
        bases: how the weight beside the factors is stored, or the weight itself if it is not factored, by path; of
            linears for which the allocation chose that.
        sparsities: numbers for one that is there, by path; of linears for which the allocation chose that.
        outlook: what the allocation expects of its choice, if anything.
        vocabulary: the tables of the embedding and the head; None if the model has none that could be rounded.
        embedding: how they are stored.
        embedding_loss: what that costs, in nats a token; None if it was not measured.
        shares: ``keep`` for each precision of the tables among which the allocation chooses for a size of the whole
            model.
    """

    recipe: Recipe
    keep: float
    blocks: list[Block]
    ranks: dict[str, int | None]
    parameters: int
    own: Mapping[str, Size] = field(default_factory=dict)
    left: frozenset[str] = frozenset()
    bases: Mapping[str, AnyBase] = field(default_factory=dict)
    sparsities: Mapping[str, float] = field(default_factory=dict)
    outlook: Outlook | None = None
    vocabulary: Vocabulary | None = None
    embedding: AnyPrecision = field(default_factory=Bits16)
    embedding_loss: float | None = None
    shares: tuple[tuple[AnyPrecision, float], ...] = ()

    def layout(self, path: str) -> Layout:
        """Return how a linear is stored."""
        part = self.parts.get(path)
        if part is not None:
            return self.recipe.layout.keeping(part.side, direct=part.direct)
        base = self.bases.get(path)
        layout = self.recipe.layout if base is None else self.recipe.layout.based_on(base)
        return layout.with_sparsity(self.sparsities.get(path))

    def changes(self, path: str) -> bool:
        """Return whether a linear becomes another layer."""
        return self.layout(path).changes(self.ranks[path])

    @cached_property
    def parts(self) -> dict[str, Part]:
        """What each linear has of a pair whose width shrinks, by path."""
        found = {ref.path: block.part(ref.name) for block in self.blocks for ref in block.linears}
        return {path: part for path, part in found.items() if part is not None}

    @property
    def budgets(self) -> Budgets:
        """Bytes to keep of all linears."""
        return Budgets(self.keep, self.own)

    @property
    def linears(self) -> list[LinearRef]:
        """All linears of the blocks, in order of execution."""
        return [ref for block in self.blocks for ref in block.linears]

    @property
    def bytes(self) -> int:
        """Bytes of the whole model with the linears laid out at their ranks, its tables, and all else in 16 bits."""
        stored = sum(self.bytes_of(ref) for ref in self.linears) + self.embedding_bytes
        return stored + BYTES_PER_NUMBER * self.other_parameters

    @property
    def other_parameters(self) -> int:
        """Numbers of the model that are in none of its linears and tables."""
        tables = 0 if self.vocabulary is None else self.vocabulary.parameters
        return self.parameters - tables - sum(ref.size for ref in self.linears)

    @property
    def rounded_tables(self) -> list[str]:
        """Paths of the tables that are rounded, or may be once that is chosen."""
        may_be = self.embedding.scheme is not None or self.shares
        return self.vocabulary.paths if self.vocabulary is not None and may_be else []

    @property
    def embedding_bytes(self) -> int:
        """Bytes of the tables of the vocabulary."""
        return 0 if self.vocabulary is None else bytes_of_tables(self.vocabulary, self.embedding)

    def numbers_of(self, ref: LinearRef) -> int:
        """Return how many numbers a linear is stored as, whatever is beside its factors."""
        return self.layout(ref.path).structure.numbers(*ref.shape, self.ranks[ref.path])

    def bytes_of(self, ref: LinearRef) -> int:
        """Return the bytes that a linear is stored in, without a bias that it had before."""
        return self.layout(ref.path).beside_bias(ref.has_bias).bytes(*ref.shape, self.ranks[ref.path])


def check_keep(keep: float) -> None:
    """Raise unless ``keep`` is a share of bytes that can be kept."""
    found: object = keep
    if not isinstance(found, Real):
        raise EckartError(
            f"keep is the share of the bytes to keep, a number above 0 and at most 1; found {type(keep).__name__}."
        )
    if not 0 < keep <= 1:
        raise EckartError(f"keep is the share of the bytes to keep, above 0 and at most 1; found {keep:g}.")


def blocks_for(
    recipe: Recipe, model: PreTrainedModel, weights: WeightSource, calibration: Calibration | None = None
) -> list[Block]:
    """Return the blocks of a model with what a recipe wants to know of them.

    Args:
        recipe: that will be applied.
        model: to look into.
        weights: where its tensors are.
        calibration: whose first sample shows how the model calls its blocks, if it takes no rows of tokens.
    """
    outside = named_outside(model, recipe)
    return find_blocks(
        model,
        weights,
        probe_of(model, calibration),
        residuals=recipe.objective.residual_share > 0,
        units=recipe.structure.reorders_units,
        pairs=recipe.pairs.narrows,
        gradients=takes_gradients(recipe),
        outside=outside.__contains__,
    )


def takes_gradients(recipe: Recipe) -> bool:
    """Return whether a recipe asks for gradients of the model's loss, which some linears may not get."""
    return bool(recipe.allocation.needs & (Needs.FIRST_ORDER | Needs.CURVATURE)) or recipe.has_metric


def probe_of(model: PreTrainedModel, calibration: Calibration | None) -> Inputs | None:
    """Return the inputs that show how a model calls its blocks; None for those that are made up."""
    if calibration is None or calibration.tokens is not None:
        return None
    return {name: tensor for name, tensor in completed(model, calibration.sample(0)).items() if name != LABELS}


def targets_for(
    recipe: Recipe,
    keep: float,
    model: PreTrainedModel,
    weights: WeightSource,
    calibration: Calibration | None = None,
    *,
    check: bool = False,
) -> Targets:
    """Return the blocks of a model with the linears in them that a recipe compresses.

    Args:
        recipe: that says which.
        keep: bytes to keep of those that it says nothing of.
        model: to look into; its linears may be fused.
        weights: where its tensors are.
        calibration: as for :func:`blocks_for`.
        check: see :func:`eckart.compression.targets.choose_targets`.
    """
    blocks = blocks_for(recipe, model, weights, calibration)
    found = choose_targets(model, blocks, recipe, keep, check=check)
    return pairs_alone(found, recipe.pairs) if recipe.pairs.narrows else found


def make_plan(
    model: PreTrainedModel,
    recipe: Recipe,
    keep: float,
    weights: WeightSource | None = None,
    calibration: Calibration | None = None,
) -> Plan:
    """Find the linears in the blocks of ``model`` and give each a rank: a uniform one, which an allocation replaces.

    Args:
        model: to be compressed; if the recipe says that linears share a basis, they are fused in it.
        recipe: what is to be done to it.
        keep: bytes of the linears to keep that have no size of their own, as a share.
        weights: where the model's tensors are; in memory by default.
        calibration: as for :func:`blocks_for`.

    Raises:
        EckartError: ``keep`` is not in (0, 1], the smallest ranks allowed take more, or the recipe's targets name
            nothing.
        UnsupportedModelError: the model has no blocks of linears that could be factored, or none whose output goes to
            a residual stream, if the objective looks at that.
    """
    check_keep(keep)
    recipe = _suited_to(recipe, calibration)
    weights = weights or ResidentWeights()
    try:
        expand(model, weights, probe_of(model, calibration))
        targets = targets_for(recipe, keep, model, weights, calibration, check=True)
        fusions = fusions_of(recipe, targets)
        if fusions:
            fuse(model, fusions, weights)
            targets = targets_for(recipe, keep, model, weights, calibration)
        return _uniform_plan(model, targets, recipe, find_vocabulary(model))
    except EckartError:
        take_back(model, weights)
        raise


def fusions_of(recipe: Recipe, targets: Targets) -> list[Fusion]:
    """Return which targets of a recipe are one layer before anything is measured."""
    found: list[Fusion] = []
    if recipe.sharing.fuses_all:
        found += fusable(targets.blocks)
    if recipe.sharing.fuses_experts:
        found += fusable_experts(targets.blocks)
    return together(found, targets.budgets)


def _suited_to(recipe: Recipe, calibration: Calibration | None) -> Recipe:
    """Return a recipe with batches that suit the samples; rows of a text are as long as was asked for."""
    if calibration is None or calibration.tokens is not None or not all(IDS in item for item in calibration.items):
        return recipe
    trained = {
        name: training.on_short_samples(calibration.token_count / len(calibration))
        for name, training in (
            ("preparation", recipe.preparation.training),
            ("refinement", recipe.refinement.training),
            ("distillation", recipe.distillation.training),
        )
        if training is not None
    }
    return recipe.model_copy(update=trained)


def take_back(model: PreTrainedModel, weights: WeightSource) -> None:
    """Give a model that was not compressed the layers and parameters that it had before a plan was made."""
    unfuse(model, fused_layers(model), weights)
    contract(model, weights)


def _uniform_plan(model: PreTrainedModel, targets: Targets, recipe: Recipe, vocabulary: Vocabulary | None) -> Plan:
    linears = shapes_of(targets.blocks)
    if not linears:
        left = Counter(why for block in targets.blocks for why in block.left.values())
        found = "".join(f"; {count} layers: {why}" for why, count in left.items())
        raise UnsupportedModelError(
            f"The blocks of {type(model).__name__} run no linear layer that can be factored{found}."
        )
    # Known at once, so that what cannot be done is refused at once.
    first = recipe.allocation.unmeasured(linears, targets.budgets, recipe.layout)
    unsaved = set(model._keys_to_ignore_on_save or ())  # what is computed where the model is made, such as sinusoids
    parameters = sum(parameter.numel() for name, parameter in model.named_parameters() if name not in unsaved)
    budgets = targets.budgets
    return Plan(
        recipe,
        budgets.keep,
        targets.blocks,
        first.ranks,
        parameters,
        budgets.own,
        targets.left,
        bases=first.bases,
        sparsities=first.sparsities,
        vocabulary=None if vocabulary is None else vocabulary.without({linear.path for linear in linears}),
        embedding=recipe.embedding,
    )
