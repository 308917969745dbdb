"""The progress bars: of ``eckart compress``, and what it has in common with others."""

from __future__ import annotations

from collections import Counter
from typing import TextIO

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

from eckart.cli.console import duration, megabytes, messages
from eckart.cli.plain import PlainConsole
from eckart.cli.tables import left_alone
from eckart.compression.callback import Callback
from eckart.compression.estimate import Estimate
from eckart.compression.model_check import ModelCheck
from eckart.compression.plan import Plan
from eckart.compression.records import LayerRecord
from eckart.methods.preparation.record import PreparationRecord
from eckart.methods.recipe import Recipe
from eckart.methods.refinement.record import RefinementRecord
from eckart.methods.training.record import EpochRecord


class ProgressBar(Callback):
    """Shows the layer or the block that is worked on, its error, and the time left; counts layers and epochs.

    Attributes:
        cost: what was expected at the start; None until then.
        expected_seconds: of it, for the blocks that are not finished yet.

    Args:
        recipe: what is done.
        progress: where it is shown, entered.
        quiet: whether nothing is to be printed.
    """

    def __init__(self, recipe: Recipe, progress: Progress, *, quiet: bool) -> None:
        self.recipe, self.progress, self.quiet = recipe, progress, quiet
        self.task = progress.add_task("preparing", total=None, error="-", start=False)
        self.first_epochs = self.epochs = self.last_epochs = 0
        self.cost: Estimate | None = None
        self.expected_seconds = 0.0

    def on_check(self, check: ModelCheck) -> None:
        """Print it, and what stays as it is."""
        if not self.quiet:
            messages.print(check.summary, markup=False, soft_wrap=True)
            messages.print(left_alone(check))

    def on_start(self, plan: Plan, cost: Estimate, finished: int) -> None:
        """Print what is expected, and start the bar."""
        self.cost, self.recipe = cost, plan.recipe  # which may have been chosen by a size meanwhile
        refinement, distillation = plan.recipe.refinement.training, plan.recipe.distillation.training
        preparation = plan.recipe.preparation.training
        self.first_epochs = preparation.epochs if preparation else 0
        self.epochs = refinement.epochs if refinement else 0
        self.last_epochs = distillation.epochs * len(distillation.sides) if distillation else 0
        blocks = len(plan.blocks)
        self.expected_seconds = (
            cost.allocation_seconds + cost.block_seconds * (blocks - finished) + cost.distillation_seconds
        )
        if not self.quiet:
            device = "" if cost.device_bytes is None else f", {megabytes(cost.device_bytes)} on the accelerator"
            spilled = "" if cost.in_memory else " Hidden states go to files."
            again = " Activations are computed twice." if cost.recompute else ""
            ranks = f"{duration(cost.allocation_seconds)} for the ranks, " if cost.allocation_seconds else ""
            distilled = f"{duration(cost.distillation_seconds)} to distil, " if cost.distillation_seconds else ""
            done = f" {finished} blocks are finished already." if finished else ""
            messages.print(
                f"{len(plan.linears)} linear layers in {blocks} blocks, recipe {self.recipe.name}, keep {plan.keep:g}. "
                f"Expected: {megabytes(cost.host_bytes)} of memory{device}, {ranks}"
                f"{duration(cost.block_seconds)} a block, {distilled}"
                f"{duration(self.expected_seconds)} in all.{spilled}{again}{done}"
            )
        done_layers = sum(len(block.linears) for block in plan.blocks[:finished])
        self.progress.update(
            self.task,
            total=len(plan.linears) + blocks * (self.first_epochs + self.epochs) + self.last_epochs,
            completed=done_layers + finished * (self.first_epochs + self.epochs),
        )
        self.progress.start_task(self.task)

    def on_measurement(self, done: int, total: int) -> None:
        """Show how far the measurement for the ranks has come."""
        self.progress.update(self.task, description=f"measuring for ranks: {done} of {total}")

    def on_allocation(self, plan: Plan) -> None:
        """Print what was chosen, if the allocation chose more than ranks, and what is expected of it."""
        if self.quiet or plan.outlook is None:
            return
        counts = Counter(base.name for base in plan.bases.values())
        chosen = ", ".join(f"{count} in {name}" for name, count in sorted(counts.items(), reverse=True))
        factors = sum(plan.ranks[path] is not None for path in plan.bases)
        if plan.embedding.scheme is not None:
            chosen += f"; the embedding in {plan.embedding.name}"
        outlook = plan.outlook
        messages.print(
            f"Chose by the predicted loss a byte: {chosen}; {factors} layers with factors. Predicted rise of the "
            f"loss: {outlook.loss:.2g} nats a token; with {outlook.more:.0%} more bytes {outlook.loss_at_more:.2g}."
        )

    def on_preparation_epoch(self, block: str, number: int, record: EpochRecord) -> None:
        """Advance by one epoch."""
        self.on_epoch(f"{block} dense", number, record)

    def on_preparation(self, record: PreparationRecord) -> None:
        """Advance by the epochs that were not needed."""
        self.progress.update(self.task, advance=self.first_epochs - len(record.epochs))

    def on_layer(self, record: LayerRecord) -> None:
        """Advance by one layer."""
        self.progress.update(self.task, advance=1, description=record.path, error=f"{record.error:.3f}")

    def on_epoch(self, block: str, number: int, record: EpochRecord) -> None:
        """Advance by one epoch."""
        loss = record.training if record.held_out is None else record.held_out
        self.progress.update(self.task, advance=1, description=f"{block} epoch {number}", error=f"{loss:.4f}")

    def on_refinement(self, record: RefinementRecord) -> None:
        """Advance by the epochs that were not needed."""
        self.progress.update(self.task, advance=self.epochs - len(record.epochs))

    def on_distillation(self, number: int, record: EpochRecord) -> None:
        """Advance by one epoch."""
        loss = record.training if record.held_out is None else record.held_out
        self.progress.update(self.task, advance=1, description=f"distillation, epoch {number}", error=f"{loss:.4f}")


def progress_display(*behind: ProgressColumn, disable: bool, stream: TextIO | None = None) -> Progress:
    """Return an empty progress display, which leaves nothing behind.

    Args:
        behind: columns between the count and the time left.
        disable: whether to show nothing.
        stream: to hold on to, even where something else is put in its place meanwhile; by default what is standard
            error at each moment.
    """
    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn()
    console = messages if stream is None else PlainConsole(file=stream)
    return Progress(*columns, *behind, TimeRemainingColumn(), console=console, disable=disable, transient=True)


def progress_bar(*, quiet: bool) -> Progress:
    """Return an empty progress display on standard error."""
    return progress_display(TextColumn("error {task.fields[error]}"), disable=quiet)
