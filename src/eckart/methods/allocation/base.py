"""What every allocator answers: a rank for each linear, of what was measured on the original model."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Discriminator, Field
from torch import Tensor

from eckart.blocks.blockwise_model import BlockwiseModel
from eckart.methods.allocation.budgets import Budgets, rank_within
from eckart.methods.allocation.fit_to_budget import GainPerByte, fit_to_budget
from eckart.methods.allocation.paired import as_one, pairs_of, ranks_of_members
from eckart.methods.allocation.rank_budget import RankBudget, Ranks
from eckart.methods.choice import Choice
from eckart.methods.layout import Layout
from eckart.methods.metric import Fisher
from eckart.methods.precision import AnyBase, AnyPrecision
from eckart.methods.sensitivity.cost import StepSeconds
from eckart.methods.sensitivity.layer_statistics import LayerStatistics, Needs
from eckart.methods.sensitivity.measure import Progress
from eckart.methods.sensitivity.measurements import Measurements
from eckart.methods.sensitivity.request import Request

Choose = Callable[[RankBudget], Ranks]
Worth = Callable[[RankBudget], GainPerByte]


class Outlook(BaseModel):
    """What an allocation expects of its choice.

    Attributes:
        loss: rise of the model's loss, in nats a token.
        more: share of bytes by which the next larger size is larger.
        loss_at_more: the rise at that size.
    """

    model_config = ConfigDict(frozen=True)

    loss: float
    more: float
    loss_at_more: float

    def beside(self, loss: float) -> Outlook:
        """Return what is expected if something else costs the model a loss, too, at either size."""
        return self.model_copy(update={"loss": self.loss + loss, "loss_at_more": self.loss_at_more + loss})


class Storage(BaseModel):
    """How each linear is stored.

    Attributes:
        ranks: by path; None where it is not factored.
        bases: how the weight beside the factors is stored, or the weight itself, by path; of linears for which that is
            not what the recipe says for all.
        sparsities: numbers for one that is there, by path; of linears for which that is not what the recipe says.
        outlook: what is expected of it; None if nothing is.
    """

    model_config = ConfigDict(frozen=True)

    ranks: dict[str, int | None]
    bases: dict[str, Annotated[AnyBase, Discriminator("name")]] = {}
    sparsities: dict[str, float] = {}
    outlook: Outlook | None = None


class OwnMeasurement(Enum):
    """How often an allocation measures something itself, after what it shares with others was measured."""

    NONE = auto()
    ONCE = auto()
    FOR_EACH_SIZE = auto()


@dataclass(frozen=True)
class Wanted:
    """What ranks are wanted for.

    Attributes:
        budgets: bytes to keep, of all linears and of those that have a size of their own.
        layout: what a rank costs, and a weight that is not factored.
        request: what was measured in the walk that is shared.
        progress: is called with (steps done, steps to do).
    """

    budgets: Budgets
    layout: Layout
    request: Request
    progress: Progress = lambda done, total: None

    @property
    def keep(self) -> float:
        """Bytes to keep of the linears that have no size of their own, as a share of the dense 16-bit bytes."""
        return self.budgets.keep


class Allocation(Choice):
    """A choice of which rank goes where.

    Attributes:
        multiple: ranks are multiples of this; matrix products are fast at multiples of 8.
        floor: least rank of a factored linear, as a share of the largest one that saves bytes.
        fused_groups: whether linears that share an input are all factored or all dense, as serving engines want them.
        fill_budget: whether ranks rise, one step at a time, while the budget has room for a step. Papers round ranks
            down and stop there, and so do the recipes that are named after them: on a small model one rank of 210
            has made 159 of a perplexity of 643.
    """

    needs: ClassVar[Needs] = Needs.NONE
    chooses_bases: ClassVar[bool] = False  # whether it says how the weight beside the factors is stored
    chooses_sparsities: ClassVar[bool] = False  # whether it says how many numbers of a layer are there

    multiple: int = Field(8, ge=1)
    floor: float = Field(0.0, ge=0.0, le=1.0)
    fused_groups: bool = False
    fill_budget: bool = True

    @property
    def needs_data(self) -> bool:
        """Whether calibration tokens are looked at, if the objective looks at any."""
        return self.needs not in (Needs.NONE, Needs.SPECTRUM) or self.own_measurement is not OwnMeasurement.NONE

    @property
    def own_measurement(self) -> OwnMeasurement:
        """How often :meth:`measure` finds something of its own."""
        return OwnMeasurement.NONE

    @property
    def embeddings(self) -> tuple[AnyPrecision, ...]:
        """Precisions of the embedding among which it chooses for the size of a whole model; none if it does not."""
        return ()

    @property
    def label(self) -> str:
        """Its name, as messages give it."""
        return repr(self.name)

    @property
    def truncates(self) -> bool:
        """Whether its own measurement runs the model with weights or outputs truncated to a rank."""
        return False

    @property
    def truncates_outputs(self) -> bool:
        """Whether it is with all outputs of a linear truncated, whatever its weight is."""
        return False

    @property
    def changes_weights(self) -> bool:
        """Whether its own measurement ends with other weights than the model's, which are then factored."""
        return False

    @property
    def walks(self) -> int:
        """How often it walks through the original model, the shared measurement included."""
        return 1

    @property
    def solves_first(self) -> bool:
        """Whether the equation is solved for all linears, of the model as it is, before ranks are chosen."""
        return Needs.SPECTRUM in self.needs and not self.changes_weights

    @property
    def curvature_metric(self) -> Fisher | None:
        """How gradients of outputs are measured for :attr:`Needs.CURVATURE`, unless the objective has a metric.

        By a field called ``metric`` if there is one, else as in the class :class:`eckart.methods.metric.Fisher` by
        default.
        """
        if Needs.CURVATURE not in self.needs:
            return None
        chosen = getattr(self, "metric", None)
        return chosen if isinstance(chosen, Fisher) else Fisher()

    def ask(self, request: Request) -> Request:
        """Return what is measured in one walk through the original model, beyond what the objective asks for.

        Args:
            request: of the objective alone. What a plug-in wants changed, such as
                :attr:`eckart.methods.sensitivity.request.Request.gradient_samples`, it changes here.
        """
        return replace(request, needs=request.needs | self.needs, metric=request.metric or self.curvature_metric)

    def measure(self, model: BlockwiseModel, measured: Measurements, wanted: Wanted) -> Measurements:
        """Return what was measured with what this allocation measures itself; nothing, unless a class says so.

        What it finds of a linear goes to :attr:`eckart.methods.sensitivity.layer_statistics.LayerStatistics.own`, where
        :meth:`choose` finds it. A class that measures says in :attr:`own_measurement` how often.

        Args:
            model: the original one.
            measured: what :meth:`ask` asked for.
            wanted: the size, and what a rank costs.
        """
        return measured

    def own_seconds(self, steps: StepSeconds) -> float:
        """Return about how long :meth:`measure` takes, beside walks through the whole model."""
        return 0.0

    def own_bytes(self, shapes: Sequence[tuple[int, int]]) -> int:
        """Return the bytes of the weights and bases that :meth:`measure` keeps, of linears of some shapes (m, n)."""
        return 0

    def own_streams(self, linears: int) -> int:
        """Return how many copies of the hidden states of all tokens :meth:`measure` keeps, with so many linears."""
        return 0

    def unmeasured(self, linears: tuple[LayerStatistics, ...], budgets: Budgets, layout: Layout) -> Storage:
        """Return how linears are stored as far as it is known without a measurement: uniformly, by the same rules.

        Args:
            linears: their shapes.
            budgets: of all of them, and of those that have a size of their own.
            layout: what a rank costs, and a weight that is not factored.

        Raises:
            EckartError: the smallest ranks allowed exceed a budget.
        """
        return Storage(ranks=self._within(linears, budgets, layout, uniform_choice, uniform_worth))

    def storage_within(self, linears: tuple[LayerStatistics, ...], budgets: Budgets, layout: Layout) -> Storage:
        """Return how linears are stored within several budgets; arguments and errors of :meth:`ranks_within`.

        A class that chooses more than ranks says so here.
        """
        return Storage(ranks=self.ranks_within(linears, budgets, layout))

    def ranks_within(
        self, linears: tuple[LayerStatistics, ...], budgets: Budgets, layout: Layout
    ) -> dict[str, int | None]:
        """Return a rank for each linear by path, or None where it stays dense, from each of several budgets.

        Linears whose rank is said have it, unless the dense weight takes no more bytes.

        Args:
            linears: with the statistics that :attr:`needs` asks for.
            budgets: of all of them, and of those that have a size of their own.
            layout: what a rank costs, and a weight that is not factored.

        Raises:
            EckartError: the smallest ranks allowed exceed a budget.
        """
        return self._within(linears, budgets, layout, self.choose, self.worth)

    def _within(
        self, linears: tuple[LayerStatistics, ...], budgets: Budgets, layout: Layout, choose: Choose, worth: Worth
    ) -> dict[str, int | None]:
        pairs = pairs_of(linears)
        if pairs:  # a width is that of all its linears, so that each pair is one for whoever chooses
            apart = tuple(as_one(members) for members in pairs.values())
            found = ranks_of_members(self._within(apart, budgets, layout, choose, worth), pairs)
            return {linear.path: found[linear.path] for linear in linears}
        found = {}
        for size, members in budgets.split(linears):
            if size.keep is not None:
                found |= self._fitted(self.problem(tuple(members), size.keep, layout, size.option), choose, worth)
            elif size.rank is not None:
                found |= {linear.path: rank_within(linear, size.rank, layout) for linear in members}
        return {linear.path: found[linear.path] for linear in linears}

    def ranks(
        self, linears: tuple[LayerStatistics, ...], keep: float, layout: Layout, option: str = "--keep"
    ) -> dict[str, int | None]:
        """Return a rank for each linear by path, or None where it stays dense, from one budget.

        Their bytes are at most the budget. With :attr:`fill_budget` no linear could take one step more within it.

        Args:
            linears: with the statistics that :attr:`needs` asks for.
            keep: bytes to keep, as a share of the dense 16-bit bytes, in (0, 1].
            layout: what a rank costs, and a weight that is not factored.
            option: by which a user sets ``keep``, for messages.

        Raises:
            EckartError: the smallest ranks allowed exceed the budget.
        """
        return self._fitted(self.problem(linears, keep, layout, option), self.choose, self.worth)

    def problem(
        self, linears: tuple[LayerStatistics, ...], keep: float, layout: Layout, option: str = "--keep"
    ) -> RankBudget:
        """Return what :meth:`choose` sees; arguments as for :meth:`ranks`."""
        return RankBudget(linears, keep, layout, self.multiple, self.floor, self.fused_groups, option)

    def _fitted(self, problem: RankBudget, choose: Choose, worth: Worth) -> dict[str, int | None]:
        if problem.budget >= problem.whole_bytes:
            return {linear.path: None for linear in problem.linears}
        problem.check()
        return fit_to_budget(problem, choose(problem), worth(problem), fill=self.fill_budget)

    @abstractmethod
    def choose(self, problem: RankBudget) -> Ranks:
        """Return the ranks by the allocator's own rule, which need not be options nor meet the budget exactly."""

    def worth(self, problem: RankBudget) -> GainPerByte:
        """Return what a step is worth when the choice is brought to the budget.

        That is relative energy a byte; without a spectrum, how far the step starts below the choice.
        """
        if Needs.SPECTRUM in self.needs:
            return gain_per_byte(problem, problem.losses(relative_energy))
        ranks = self.choose(problem)
        shares = {
            linear.path: problem.cost(linear, ranks[linear.path]) / linear.dense_bytes for linear in problem.linears
        }
        return gain_per_byte_of_shares(problem, shares)


def uniform_choice(problem: RankBudget) -> Ranks:
    """Return the rank of the same share for all."""
    return {linear.path: problem.rank_of_share(linear, problem.keep) for linear in problem.linears}


def uniform_worth(problem: RankBudget) -> GainPerByte:
    """Return how far a step starts below that share."""
    return gain_per_byte_of_shares(problem, {linear.path: problem.keep for linear in problem.linears})


def relative_energy(linear: LayerStatistics) -> Tensor:
    """Return the share of a linear's output energy that each component carries, (p,)."""
    assert linear.energy is not None, f"{linear.path} has no spectrum"
    total = linear.energy.sum() if linear.output_energy is None else linear.output_energy
    return linear.energy / total if total > 0 else linear.energy


def gain_per_byte(problem: RankBudget, losses: dict[str, list[float]]) -> GainPerByte:
    """Return the loss saved a byte, for a loss at each option of each linear."""

    def worth(path: str, low: int, high: int) -> float:
        options = problem.options[path]
        return (losses[path][low] - losses[path][high]) / (options[high].bytes - options[low].bytes)

    return worth


def gain_per_byte_of_shares(problem: RankBudget, shares: dict[str, float]) -> GainPerByte:
    """Return how far a step starts below the share of its 16-bit bytes that each linear was to get, by path."""

    dense = {linear.path: linear.dense_bytes for linear in problem.linears}

    def worth(path: str, low: int, high: int) -> float:
        options = problem.options[path]
        return shares[path] - (options[low].bytes + options[high].bytes) / (2 * dense[path])

    return worth
