"""Runs a sweep: collects what rows share, makes and measures the model of each, and writes the row down."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

from eckart import processes
from eckart.blocks.blockwise_model import BlockwiseModel
from eckart.blocks.discovery import find_blocks
from eckart.blocks.expert_stacks import expanded
from eckart.blocks.onload import ResidentWeights
from eckart.blocks.tensor_cache import ScratchSpace
from eckart.checkpoint.identity import digest_of, versions
from eckart.checkpoint.load import check_compressible
from eckart.checkpoint.loaded import check_unchanged
from eckart.checkpoint.tokenizer import load_tokenizer
from eckart.compression.callback import Callback
from eckart.compression.plan import Plan, takes_gradients
from eckart.compression.targets import choose_targets, named_outside
from eckart.data.calibration import DEFAULT_LENGTH, DEFAULT_SAMPLES, Calibration, calibrate
from eckart.data.context import length_for
from eckart.data.text import PYTHON_DOCS
from eckart.device import resolve_device
from eckart.errors import CalibrationError, CheckpointError, EckartError, warn
from eckart.methods.recipe import Recipe
from eckart.methods.recipes.published import DEFAULT_KEEP
from eckart.methods.targets import overrides_for
from eckart.run.check.run import check_model, check_reach
from eckart.run.compress import name_of, step_warnings, token_warnings
from eckart.run.random_state import random_state_kept
from eckart.run.renamed import renamed
from eckart.sweep.build import Compressed, build
from eckart.sweep.case import Case, cases_of
from eckart.sweep.evaluation import Evaluation, Stopwatch, stored_bytes
from eckart.sweep.row import SweepRow
from eckart.sweep.statistics import Statistics, blocks_for_all, collect
from eckart.sweep.store import Failure, Store

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class SweepCallback(Callback):
    """Is told what a sweep does, and what the walks in it do. Does nothing itself: override what you want to hear."""

    def on_sweep(self, missing: int, cases: int) -> None:
        """Hear how many rows are missing, of how many that are asked for."""

    def on_statistics(self, recipes: int, samples: int | None) -> None:
        """Hear that a measurement begins which so many recipes share."""

    def on_case(self, case: Case) -> None:
        """Hear that a row is begun."""

    def on_row(self, row: SweepRow) -> None:
        """Hear that a row is measured and written."""

    def on_failure(self, failure: Failure) -> None:
        """Hear that a row could not be measured. Unless overridden it is a warning."""
        warn(f"{failure.label} at {failure.keep:g} failed: {failure.message}")


@dataclass(frozen=True)
class Sweep:
    """A sweep that is ready to run; made by :func:`prepare`.

    Attributes:
        cases: all rows that are asked for.
        store: the file.
    """

    model: PreTrainedModel
    name: str
    revision: str
    cases: list[Case]
    store: Store
    evaluation: Evaluation
    draw: Callable[[int], Calibration]
    stopwatch: Stopwatch | None
    memory: int | None
    callback: SweepCallback

    def rows(self) -> list[SweepRow]:
        """Return the rows that are in the file, of those that are asked for."""
        return [row for row in map(self.store.row, self.cases) if row is not None]

    def missing(self) -> list[Case]:
        """Return the cases whose rows are not in the file, or not with all that is asked for."""
        found = [(case, self.store.row(case)) for case in self.cases]
        return [case for case, row in found if row is None or (self.stopwatch is not None and row.speed is None)]

    def run(self) -> Iterator[SweepRow]:
        """Measure what is missing, and yield each row when it is in the file.

        A case that fails is written down, and the sweep goes on. Several processes take some cases each.

        Raises:
            CheckpointError: the file cannot be written, or has rows of other calibration tokens, or the model's files
                were changed meanwhile.
            CalibrationError: the calibration text is too short for so many samples.
        """
        missing = self._dealt()
        with processes.alone():
            yield from self._run(missing)

    def _run(self, missing: Sequence[Case]) -> Iterator[SweepRow]:
        self.callback.on_sweep(len(missing), len(self.cases))
        numbers = dict.fromkeys(case.samples for case in missing)
        calibrations = {samples: None if samples is None else self._draw(samples) for samples in numbers}
        for dense in [case for case in missing if case.recipe is None]:
            made = Compressed(copy.deepcopy(self.model), {}, 1.0)
            yield from self._attempt(dense, functools.partial(self._measured, dense, made, None, 0.0, 0.0))
        for samples, calibration in calibrations.items():
            groups: dict[_Linears, list[Case]] = {}
            for case in missing:
                if case.samples == samples and case.recipe is not None:
                    groups.setdefault(self._linears_of(case.recipe), []).append(case)
            for group in sorted(groups.values(), key=_is_fused):  # the model as it is goes first
                yield from self._group(group, calibration)

    def _dealt(self) -> list[Case]:
        """Return which of the missing cases this process takes: all of a recipe, where there are enough recipes."""
        missing = self.missing()
        if processes.size() == 1:
            return missing
        found = processes.give([self.cases.index(case) for case in missing])  # some may have been measured meanwhile
        missing = [self.cases[number] for number in found]
        kinds = list(dict.fromkeys((case.label, case.samples) for case in missing))
        if len(kinds) < processes.size():
            return [missing[number] for number in processes.dealt(len(missing))]
        own = {kinds[number] for number in processes.dealt(len(kinds))}
        return [case for case in missing if (case.label, case.samples) in own]

    def _group(self, cases: Sequence[Case], calibration: Calibration | None) -> Iterator[SweepRow]:
        """Measure the cases that share one measurement."""
        cases = self._checked(cases, calibration)
        if not cases:
            return
        wanted: dict[Recipe, list[float]] = {}
        for case in cases:
            assert case.recipe is not None
            wanted.setdefault(case.recipe, []).append(case.keep)
        self.callback.on_statistics(len(wanted), None if calibration is None else len(calibration))
        with random_state_kept():
            statistics = collect(
                self.model,
                wanted,
                calibration,
                self.evaluation.device,
                limit=self.memory,
                progress=self.callback.on_measurement,
            )
        try:
            self._warn(statistics, wanted, calibration)
            for case in cases:
                self.callback.on_case(case)
                yield from self._attempt(case, functools.partial(self._row, case, statistics, calibration))
        finally:
            statistics.close()

    def _checked(self, cases: Sequence[Case], calibration: Calibration | None) -> list[Case]:
        """Return the cases that the model can be measured for; write down why the others cannot."""
        weights, device, found = ResidentWeights(), self.evaluation.device, []
        recipes = [case.recipe for case in cases if case.recipe is not None]
        blocks = blocks_for_all(recipes, self.model, weights, calibration)
        for case in cases:
            assert case.recipe is not None
            data = calibration if case.recipe.needs_data else None
            try:
                targets = choose_targets(self.model, blocks, case.recipe, case.keep)
                plan = Plan(case.recipe, case.keep, targets.blocks, {}, 0, targets.budgets.own, targets.left)
                check_model(
                    BlockwiseModel(self.model, plan.blocks, weights, device, ScratchSpace(), data),
                    plan,
                    allow_partial=True,
                )
            except EckartError as error:
                self._fail(case, str(error))
            else:
                found.append(case)
        return found

    def _row(self, case: Case, statistics: Statistics, calibration: Calibration | None) -> SweepRow:
        assert case.recipe is not None
        start = perf_counter()
        in_memory = statistics.original.scratch.in_memory
        made = build(
            self.model, case.recipe, case.keep, statistics, memory_holds_streams=in_memory, callback=self.callback
        )
        seconds = perf_counter() - start
        shared = statistics.seconds if case.recipe in statistics.requests else 0.0
        return self._measured(case, made, calibration, seconds, shared)

    def _measured(
        self, case: Case, made: Compressed, calibration: Calibration | None, seconds: float, shared: float
    ) -> SweepRow:
        size = stored_bytes(made.model)
        texts = self.evaluation.perplexities(made.model)
        row = SweepRow(
            model=self.name,
            revision=self.revision,
            label=case.label,
            recipe=case.recipe,
            keep=case.keep,
            kept=made.kept,
            bytes=size,
            calibration=None if calibration is None or case.samples is None else calibration.record,
            texts=texts,
            ranks=dict(made.ranks),
            seconds=seconds,
            shared_seconds=shared,
            speed=None if self.stopwatch is None else self.stopwatch.time(made.model),
            versions=versions(case.recipe),
        )
        check_unchanged(self.model)  # else the row would be one of two models
        self.store.add(case, row)
        self.callback.on_row(row)
        return row

    def _attempt(self, case: Case, measure: Callable[[], SweepRow]) -> Iterator[SweepRow]:
        """Yield the row of a case, or write down why it fails."""
        try:
            with random_state_kept():
                row = measure()
        except CheckpointError:  # of the file itself, or of the model's
            raise
        # Decompositions that do not converge, and memory that is not there, are runtime errors of PyTorch.
        except (EckartError, RuntimeError) as error:
            self._fail(case, str(error) or type(error).__name__)
        else:
            yield row

    def _fail(self, case: Case, message: str) -> None:
        check_unchanged(self.model)
        self.callback.on_failure(self.store.add_failure(case, message))

    def _linears_of(self, recipe: Recipe) -> _Linears:
        """Return what recipes have in common that can be measured together."""
        return _Linears(
            fused=(recipe.sharing, recipe.targets, recipe.towers) if recipe.sharing.fuses else (),
            outside=named_outside(self.model, recipe),
            with_gradients=self._some_get_none and takes_gradients(recipe),
        )

    @functools.cached_property
    def _some_get_none(self) -> bool:
        """Whether the model runs linears without gradients, which are no targets of recipes that take them."""
        every, with_gradients = (find_blocks(self.model, gradients=taken) for taken in (False, True))
        return [block.linears for block in every] != [block.linears for block in with_gradients]

    def _draw(self, samples: int) -> Calibration:
        calibration = self.draw(samples)
        for row in self.rows():
            known = row.calibration
            if known is not None and known.samples == samples and known.sha256 != calibration.record.sha256:
                raise CheckpointError(
                    f"{self.store.path} has rows that were calibrated on other tokens of {known.source!r}: the text or "
                    "the tokenizer has changed. Use another output."
                )
        return calibration

    def _warn(self, statistics: Statistics, recipes: Iterable[Recipe], calibration: Calibration | None) -> None:
        notes = token_warnings(statistics.original)
        notes += [note for recipe in recipes for note in step_warnings(recipe, calibration)]
        for note in dict.fromkeys(notes):
            warn(note)


@renamed(observer="callback")
@random_state_kept()
def prepare(
    model: PreTrainedModel,
    recipes: Sequence[str | Recipe],
    keep: Sequence[float] = (DEFAULT_KEEP,),
    *,
    output: str | Path,
    texts: Sequence[str],
    calibration: str = PYTHON_DOCS,
    samples: Sequence[int] = (DEFAULT_SAMPLES,),
    length: int | None = None,
    seed: int = 0,
    only: str | Iterable[str] = (),
    ignore: str | Iterable[str] = (),
    windows: int | None = 20,
    window_length: int | None = None,
    speed: bool = False,
    tokenizer: PreTrainedTokenizerBase | None = None,
    device: str = "auto",
    memory: int | None = None,
    allow_partial: bool = False,
    source: str | None = None,
    callback: SweepCallback | None = None,
) -> Sweep:
    """Return a sweep of which nothing is measured yet.

    The model, and a copy of it for each step, are held in memory: a sweep is for models that are small beside it.

    Args:
        model: of transformers; stays as it is.
        recipes: names or YAML files with ``+key=value`` overrides appended, or recipes.
        keep: bytes of the blocks' linear layers to keep, as shares of their 16-bit bytes, in (0, 1].
        output: the file; what is in it already is not measured again.
        texts: to measure perplexity on (:mod:`eckart.data.text` lists the forms), one or more.
        calibration: text to calibrate on, or ``self`` for text sampled from the model.
        samples: how many calibration samples to draw; for each number there are rows of their own.
        length: tokens in each; by default 1024, or the model's context if that is shorter.
        seed: of the draw, and of the order of training.
        only: patterns of the linear layers to compress by every recipe, as for :func:`eckart.compress`.
        ignore: patterns of those to leave as they are.
        windows: of each text; None for all.
        window_length: tokens in each; by default 1024, or the model's context if that is shorter.
        speed: whether models are timed too, against the dense one.
        tokenizer: of the model; by default the one beside the files that the model was loaded from.
        device: ``auto``, ``cpu`` or the name of an accelerator.
        memory: bytes that shared statistics may take in memory; else they go to temporary files. By default half of
            what is free.
        allow_partial: as for :func:`eckart.compress`.
        source: name of the model for the rows; by default the one it was loaded by.
        callback: is told what happens.

    Raises:
        EckartError: with a message that says what to do: of what is asked for something cannot be, or the file is of
            another model, another calibration or other texts.
    """
    cases = cases_of(recipes, keep, samples, overrides_for(only, ignore))
    place = resolve_device(device, processes.turn())
    check_compressible(model)
    model.eval()
    digest = digest_of(model)
    model = expanded(model)
    check_reach(model, find_blocks(model), allow_partial=allow_partial)
    for recipe, case in {case.recipe: case for case in cases if case.recipe is not None}.items():
        choose_targets(model, blocks_for_all([recipe], model, ResidentWeights()), recipe, case.keep)
    if tokenizer is None and model.config.name_or_path:
        tokenizer = load_tokenizer(model.config.name_or_path)
    if tokenizer is None:
        raise CalibrationError("A sweep reads text and needs the model's tokenizer, and none was found.")
    evaluation = Evaluation.of(model, tokenizer, texts, windows, window_length, place)

    length = length_for(model, default=DEFAULT_LENGTH) if length is None else length

    @functools.cache
    def draw(number: int) -> Calibration:
        return calibrate(calibration, samples=number, length=length, seed=seed, tokenizer=tokenizer, model=model)

    if not Path(output).exists():  # where a text cannot be used, no file is left behind
        for number in {case.samples for case in cases if case.samples is not None}:
            draw(number)
    identity = {
        "model": digest,
        "calibration": {"source": calibration, "length": length, "seed": seed},
        "evaluation": evaluation.identity,
    }
    return Sweep(
        model=model,
        name=source or name_of(model),
        revision=getattr(model.config, "_commit_hash", None) or digest,
        cases=cases,
        store=Store(Path(output), identity),
        evaluation=evaluation,
        draw=draw,
        stopwatch=Stopwatch(model, place) if speed else None,
        memory=memory,
        callback=callback or SweepCallback(),
    )


def run(model: PreTrainedModel, recipes: Sequence[str | Recipe], **options: Any) -> Iterator[SweepRow]:
    """Measure each recipe at each size, and yield each row when it is in the file; arguments as for :func:`prepare`."""
    return prepare(model, recipes, **options).run()


class _Linears(NamedTuple):
    """Which linears a recipe looks for in a model, and fuses.

    Attributes:
        fused: what says which are; nothing if none are.
        outside: paths of those in no list of blocks.
        with_gradients: whether only those that get gradients count.
    """

    fused: tuple[object, ...]
    outside: frozenset[str]
    with_gradients: bool


def _is_fused(cases: Sequence[Case]) -> bool:
    return any(case.recipe is not None and case.recipe.sharing.fuses for case in cases)
