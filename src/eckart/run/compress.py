"""The public verb for a model in memory, and what it shares with the one for models on disk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from torch import Tensor

from eckart import processes
from eckart.blocks.blockwise_model import BlockwiseModel
from eckart.blocks.onload import ResidentWeights
from eckart.blocks.tensor_cache import ScratchSpace
from eckart.checkpoint.identity import digest_of_some, identity_of_run
from eckart.checkpoint.load import check_compressible
from eckart.checkpoint.loaded import check_unchanged
from eckart.checkpoint.nested import factors_in, sized
from eckart.checkpoint.output import check_space
from eckart.checkpoint.processor import load_processor
from eckart.checkpoint.quantizer import attach
from eckart.checkpoint.run_folder import RunFolder
from eckart.checkpoint.save import description
from eckart.compression.allocate import allocate
from eckart.compression.callback import Callback
from eckart.compression.costs import Memory
from eckart.compression.estimate import Estimate
from eckart.compression.model_check import ModelCheck
from eckart.compression.nested import check_nested, order_of
from eckart.compression.plan import Plan, check_keep, make_plan, take_back
from eckart.compression.records import LayerRecord
from eckart.compression.result import CompressionResult
from eckart.compression.state import RunCheckpoint
from eckart.compression.walk import compress_blocks
from eckart.data.calibration import DEFAULT_SAMPLES, SELF, Calibration, calibrate
from eckart.data.samples import Sample
from eckart.data.text import PYTHON_DOCS
from eckart.device import peak_device_memory, peak_host_memory, resolve_device
from eckart.errors import warn
from eckart.methods.layout import BYTES_PER_NUMBER
from eckart.methods.recipe import Recipe
from eckart.methods.recipes.loader import load_recipe
from eckart.methods.recipes.published import DEFAULT_KEEP, DEFAULT_RECIPE
from eckart.methods.targets import overrides_for
from eckart.run.alike import check_alike, estimate_for_all, host_limit, in_parts
from eckart.run.check.run import check_model
from eckart.run.random_state import random_state_kept
from eckart.run.renamed import renamed
from eckart.run.requirements import check_requirements
from eckart.run.scratch import Scratch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MOST_UNRESOLVED = 0.01  # of a layer's output energy, before it is worth a word
FEW_STEPS = 100  # of the optimiser in a block's refinement; AA-SVD takes 200


@renamed(observer="callback")
@random_state_kept()
@processes.together()
def compress(
    model: PreTrainedModel,
    recipe: str | Path | Recipe = DEFAULT_RECIPE,
    keep: float = DEFAULT_KEEP,
    calibration: str | Tensor | Sequence[Sample] = PYTHON_DOCS,
    *,
    tokenizer: Any | None = None,
    samples: int = DEFAULT_SAMPLES,
    length: int | None = None,
    seed: int = 0,
    chat: bool = False,
    device: str = "auto",
    overrides: Iterable[str] = (),
    only: str | Iterable[str] = (),
    ignore: str | Iterable[str] = (),
    memory: int | None = None,
    source: str | None = None,
    allow_partial: bool = False,
    nested: bool = False,
    callback: Callback | None = None,
) -> CompressionResult:
    """Compress a model in place.

    The model then saves with :func:`eckart.save` (or its own ``save_pretrained``), and loads with ``from_pretrained``
    wherever ``eckart`` was imported. For a model that is larger than memory see :func:`eckart.compress_checkpoint`.
    Several processes that all call this (of ``torchrun``, or of a process group) share the work, and all end with the
    whole compressed model.

    Args:
        model: of transformers, with ``nn.Linear`` or ``Conv1D`` layers in its blocks.
        recipe: the name of one, a YAML file, or a :class:`eckart.Recipe`.
        keep: bytes of the blocks' linear layers to keep, as a share of their 16-bit bytes, in (0, 1].
        calibration: text to calibrate on (:mod:`eckart.data.text` lists the forms), ``self`` for text sampled from the
            model, token ids (samples, length), or samples of any kind: what the model's forward is handed for each, by
            name, with ``labels`` for its loss if there are some. Text and ids are not read if the recipe looks at no
            data.
        tokenizer: of the model, or its processor; by default the one beside the files that it was loaded from.
        samples: how many calibration samples to draw.
        length: tokens in each; by default 1024, or the model's context if that is shorter.
        seed: of the draw, and of the order of training.
        chat: write prompts and answers of the calibration by the model's chat template.
        device: ``auto``, ``cpu`` or the name of an accelerator.
        overrides: changes to the recipe, such as ``objective.shrinkage=0.03``.
        only: patterns of the linear layers to compress: module paths, globs over paths such as ``*.down_proj``, names
            of classes. All others are left as they are.
        ignore: patterns of linear layers to leave as they are. Both become targets of the recipe.
        memory: bytes that the process may take; hidden states go to temporary files if they would not fit. By default
            what is free.
        source: name of the model for the record; by default the one it was loaded by.
        allow_partial: compress the model even if less than half of its blocks' bytes are in linear layers that can be
            factored, as in mixtures of experts.
        nested: note in which order components of all layers are worth their bytes, so that the folder that is saved
            serves smaller sizes too: ``load_model(folder, keep=0.5)``, ``eckart resize``.
        callback: is told what happens.

    Returns:
        The ranks, bytes and errors of all layers, and what it took.

    Raises:
        EckartError: with a message that says what to do; the model is then unchanged, unless the cause is a
            non-finite activation, or a file of the model that was changed meanwhile.
    """
    check_requirements()
    check_keep(keep)
    chosen = load_recipe(recipe, [*overrides, *overrides_for(only, ignore)], keep)
    if nested:
        check_nested(chosen)
    place = resolve_device(device, processes.turn())
    check_compressible(model)
    model.eval()
    weights = ResidentWeights()
    samples_given = calibration if isinstance(calibration, list | tuple) else None
    tokens: Calibration | None = None
    if chosen.needs_data or samples_given:
        reads_text = isinstance(calibration, str) and calibration != SELF
        if tokenizer is None and reads_text and model.config.name_or_path:
            tokenizer = load_processor(model.config.name_or_path)
        tokens = calibrate(
            calibration, samples=samples, length=length, seed=seed, tokenizer=tokenizer, model=model, chat=chat
        )
    plan = make_plan(model, chosen, keep, weights, tokens)
    try:
        tokens = tokens if chosen.needs_data else None
        blockwise = BlockwiseModel(model, plan.blocks, weights, place, ScratchSpace(), tokens).settled()
        check = check_model(blockwise, plan, allow_partial=allow_partial)
        if processes.size() > 1:
            check_alike(identity_of_run(chosen, keep, tokens, model, {"numbers": digest_of_some(model)}, place))
        job = Job(blockwise, plan, callback or Callback(), check, nested)
        job.warn()
        report = job.run(job.estimate(memory))
        check_unchanged(model)
    except BaseException:
        take_back(model, weights)
        raise
    attach(model, description(model, report, source or name_of(model)))
    if report.nested is not None:
        report.nested = sized(report.nested, lambda path: factors_in(model, path))
    return report


@dataclass(frozen=True)
class Job:
    """Everything that is known before the first block is touched.

    Attributes:
        model: whose blocks are run.
        plan: what is done to it.
        callback: is told what happens.
        check: what is known of the model.
        nested: whether components of all layers are put in an order.
    """

    model: BlockwiseModel
    plan: Plan
    callback: Callback
    check: ModelCheck
    nested: bool = False

    def notes(self) -> list[str]:
        """Return what the user should know about the choice of data and numbers."""
        calibration = self.model.calibration
        return [
            *self.check.notes,
            *embedding_warnings(self.plan),
            *token_warnings(self.model),
            *step_warnings(self.plan.recipe, calibration),
        ]

    def warn(self) -> None:
        """Say the notes."""
        for note in self.notes():
            warn(note)

    def estimate(self, memory: int | None) -> Estimate:
        """Return what the run will take, if the process may take ``memory`` bytes of the host."""
        limit = host_limit() if memory is None else memory
        cost = estimate_for_all(self.model, self.plan, limit)
        if cost.host_bytes > limit:
            warn(
                f"The run is expected to take {cost.host_bytes / 1e9:.1f} GB of memory, more than the "
                f"{limit / 1e9:.1f} GB that it may. Shorter calibration samples (--length) take less."
            )
        return cost

    def check_space(self, folder: RunFolder) -> None:
        """Raise if what will be written does not fit on the disk."""
        itemsize = self.model.dtype.itemsize
        # What is counted in 16 bits is stored in the model's dtype; codes are not, so that this is too much for them.
        needed = self.plan.bytes * itemsize // BYTES_PER_NUMBER
        if self.plan.recipe.precision.scheme is not None:
            needed *= 2  # where nothing is factored, all is written once more, in the standard format
        if self.model.calibration is not None:
            needed += 4 * self.model.stream_numbers * itemsize
        written = sum(path.stat().st_size for path in folder.model.iterdir()) if folder.model.exists() else 0
        check_space(folder.output, max(0, needed - written))

    def run(
        self,
        cost: Estimate,
        scratch: Scratch | None = None,
        *,
        run_checkpoint: RunCheckpoint | None = None,
        finished: int = 0,
    ) -> CompressionResult:
        """Compress the blocks.

        Args:
            cost: from :meth:`estimate`.
            scratch: where what is kept between blocks lives; temporary folders, if it must, by default.
            run_checkpoint: saves the finished blocks.
            finished: blocks that it has already.
        """
        callback = self.callback if processes.rank() == 0 else Callback()
        callback.on_check(self.check)
        callback.on_start(self.plan, cost, finished)
        scratch = scratch or Scratch.at(cost)
        try:
            start = perf_counter()
            measured_on = replace(in_parts(self.model), scratch=scratch.measurements)
            allocated = allocate(measured_on, self.plan, callback.on_measurement)
            seconds = perf_counter() - start
            callback.on_allocation(allocated.plan)
            report = compress_blocks(
                replace(allocated.model, scratch=scratch.streams),
                allocated.plan,
                allocated.measurements,
                student=scratch.student,
                run_checkpoint=run_checkpoint,
                recompute=cost.recompute,
                callback=callback,
            )
            if self.nested and not report.ranks:
                warn("Nothing is factored, so there are no smaller sizes in it (--nested): keep less.")
            if self.nested and report.ranks:
                linears, multiple = allocated.measurements.linears, self.plan.recipe.allocation.multiple
                report.nested = order_of(report, linears, multiple)
            report.costs.timings.allocation = seconds
            report.costs.timings.total += seconds
            report.costs.resumed_behind = finished
            report.costs.memory = Memory(
                host=peak_host_memory(),
                expected_host=cost.host_bytes,
                device=peak_device_memory(self.model.device),
                expected_device=cost.device_bytes,
            )
        finally:
            scratch.close()
        report.warnings.extend(self.notes())
        for note in unresolved_warnings(report.layers):
            warn(note)
            report.warnings.append(note)
        report.check = self.check
        return report


def embedding_warnings(plan: Plan) -> list[str]:
    """Return a warning if a recipe rounds the embedding, and the model has none that can be rounded."""
    if plan.recipe.embedding.scheme is None or plan.vocabulary is not None:
        return []
    return [
        f"The recipe stores the embedding in {plan.recipe.embedding.name}, and the model has none, or one whose weight "
        "more than a head shares: it stays as it is. Leave embedding=16-bit."
    ]


def token_warnings(model: BlockwiseModel) -> list[str]:
    """Return a warning if there are fewer calibration tokens than some layer has input features."""
    if model.calibration is None:
        return []
    starved = {
        ref: model.rows(number)
        for number, block in enumerate(model.blocks)
        for ref in block.linears
        if ref.in_features > model.rows(number)
    }
    if not starved:
        return []
    widest = max(starved, key=lambda ref: ref.in_features)
    return [
        f"{starved[widest]} calibration tokens are fewer than the input features of {len(starved)} layers, such as "
        f"{widest.path} with {widest.in_features}: their errors on other text will be larger. "
        "Use more samples, longer ones, or some shrinkage (--set objective.shrinkage=0.03)."
    ]


def unresolved_warnings(layers: Iterable[LayerRecord]) -> list[str]:
    """Return a warning if the inputs of some layer were too nearly dependent for its target."""
    missed = [layer for layer in layers if layer.unresolved > MOST_UNRESOLVED]
    if not missed:
        return []
    worst = max(missed, key=lambda layer: layer.unresolved)
    return [
        f"The inputs of {len(missed)} layers are so nearly dependent on one another that up to "
        f"{worst.unresolved:.1%} of the outputs of {worst.path} could not be fitted. Use a model in float32, more "
        "calibration text, or an objective that looks at one stream (--set objective=input-aware)."
    ]


def step_warnings(recipe: Recipe, calibration: Calibration | None) -> list[str]:
    """Return a warning if a block's refinement takes very few optimiser steps."""
    training = recipe.refinement.training
    if calibration is None or training is None or training.relative:
        return []  # steps in proportion to the weights are larger than published ones, and there may be fewer
    samples = len(calibration)
    steps = training.steps(samples)
    if steps >= FEW_STEPS:
        return []
    smaller = max(1, training.batch * steps // 200)
    # Of samples that are no rows of a text, a batch has no fewer than a step needs.
    other = f", or smaller batches (--set refinement.batch={smaller})" if calibration.tokens is not None else ""
    return [
        f"The refinement of a block takes at most {steps} optimiser steps on {samples} samples; published results "
        f"took 200. Use more samples{other}."
    ]


def name_of(model: PreTrainedModel) -> str:
    """Return the name that a model was loaded by."""
    name: Any = model.config.name_or_path
    # Of a local folder, the name and not the way to it: what is made here is passed on to others.
    return Path(name).name if name and Path(name).exists() else name or type(model).__name__
