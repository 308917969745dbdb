"""What the progress bar of ``eckart compress`` counts, and what it says at the start."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace

import pytest
from rich.progress import Progress
from tests.cli.helpers import words
from transformers import PreTrainedModel

import eckart
from eckart.cli.progress import ProgressBar, progress_bar, progress_display
from eckart.compression.estimate import Estimate
from eckart.compression.plan import make_plan
from eckart.compression.records import LayerRecord
from eckart.methods.preparation.record import PreparationRecord
from eckart.methods.recipes.loader import load_recipe
from eckart.methods.refinement.record import RefinementRecord
from eckart.methods.training.record import EpochRecord

COST = Estimate(
    host_bytes=2 * 10**9,
    device_bytes=None,
    allocation_seconds=5.0,
    block_seconds=40.0,
    seconds=120.0,
    distillation_seconds=10.0,
    in_memory=True,
    recompute=False,
)
TRAINED = ["refinement.epochs=4", "distillation=logits", "distillation.epochs=2"]
RECIPE = load_recipe("aa-svd", TRAINED)
EPOCH = EpochRecord(training=0.5, held_out=None)


@pytest.fixture
def progress() -> Iterator[Progress]:
    with progress_bar(quiet=True) as shown:
        yield shown


def counts(progress: Progress) -> tuple[float, float | None]:
    (task,) = progress.tasks
    return task.completed, task.total


def record(path: str) -> LayerRecord:
    return LayerRecord(path=path, out_features=4, in_features=4, rank=1, bytes=16, error=0.25)


@pytest.mark.parametrize("finished", [0, 2])
def test_a_whole_run_ends_at_the_total(finished: int, progress: Progress, llama: PreTrainedModel) -> None:
    plan = make_plan(llama, RECIPE, 0.6)
    bar = ProgressBar(RECIPE, progress, quiet=True)
    bar.on_start(plan, COST, finished)
    # 7 layers and 4 epochs in each of 3 blocks, and 2 epochs of the whole model.
    assert counts(progress) == (11 * finished, 35)
    for block in plan.blocks[finished:]:
        for ref in block.linears:
            bar.on_layer(record(ref.path))
        for number in range(3):
            bar.on_epoch(block.path, number + 1, EPOCH)
        # It was stopped early: the epoch that is left is not to come any more.
        bar.on_refinement(RefinementRecord(block=block.path, before=None, after=None, kept_epoch=3, epochs=[EPOCH] * 3))
    for number in range(2):
        bar.on_distillation(number + 1, EPOCH)
    assert counts(progress) == (35, 35)


def test_a_preparation_is_part_of_the_total(progress: Progress, llama: PreTrainedModel) -> None:
    recipe = load_recipe("svd-llm", ["preparation=block", "preparation.epochs=5"])
    plan = make_plan(llama, recipe, 0.6)
    bar = ProgressBar(recipe, progress, quiet=True)
    bar.on_start(plan, COST, 1)
    # 7 layers and 5 epochs in each of 3 blocks.
    assert counts(progress) == (12, 36)
    bar.on_preparation_epoch("m.1", 1, EPOCH)
    assert counts(progress)[0] == 13
    bar.on_preparation(PreparationRecord(block="m.1", before=1.0, after=0.5, kept_epoch=1, epochs=[EPOCH], tails={}))
    assert counts(progress)[0] == 17


def test_the_time_that_is_expected_is_that_of_what_is_left(progress: Progress, llama: PreTrainedModel) -> None:
    plan = make_plan(llama, RECIPE, 0.6)
    bar = ProgressBar(RECIPE, progress, quiet=True)
    assert (bar.cost, bar.expected_seconds) == (None, 0.0)
    bar.on_start(plan, COST, 2)
    assert (bar.cost, bar.expected_seconds) == (COST, 5 + 40 + 10)


def test_the_start_is_said_unless_quiet(
    progress: Progress, llama: PreTrainedModel, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = make_plan(llama, RECIPE, 0.6)
    ProgressBar(RECIPE, progress, quiet=True).on_start(plan, COST, 0)
    assert capsys.readouterr().err == ""
    ProgressBar(RECIPE, progress, quiet=False).on_start(plan, COST, 0)
    said = words(capsys.readouterr().err)
    assert said == (
        f"21 linear layers in 3 blocks, recipe {RECIPE.name}, keep 0.6. Expected: 2.00 GB of memory, "
        "5.0 s for the ranks, 40.0 s a block, 10.0 s to distil, 2 min 15 s in all."
    )
    more = replace(COST, device_bytes=3 * 10**6, in_memory=False, recompute=True)
    ProgressBar(RECIPE, progress, quiet=False).on_start(plan, more, 1)
    said = words(capsys.readouterr().err)
    for part in (
        "2.00 GB of memory, 3.0 MB on the accelerator,",
        "Hidden states go to files.",
        "computed twice.",
        "1 blocks are finished already.",
    ):
        assert part in said


def test_what_is_worked_on_and_its_error_are_shown(progress: Progress) -> None:
    bar = ProgressBar(eckart.RECIPES["aa-svd"], progress, quiet=True)
    (task,) = progress.tasks
    for show, description, error in (
        (lambda: bar.on_measurement(2, 8), "measuring for ranks: 2 of 8", "-"),
        (lambda: bar.on_layer(record("m.0.q")), "m.0.q", "0.250"),
        (lambda: bar.on_epoch("m.0", 3, EPOCH), "m.0 epoch 3", "0.5000"),
        (lambda: bar.on_epoch("m.0", 4, EpochRecord(training=0.5, held_out=0.75)), "m.0 epoch 4", "0.7500"),
        (lambda: bar.on_distillation(1, EpochRecord(training=0.5, held_out=0.25)), "distillation, epoch 1", "0.2500"),
    ):
        show()
        assert (task.description, task.fields["error"]) == (description, error)


def test_a_display_holds_on_to_its_stream() -> None:
    stream = io.StringIO()
    with progress_display(disable=False, stream=stream) as shown:
        shown.add_task("a [b] task", total=3)
        shown.console.print("said")
    assert "said" in stream.getvalue()
