"""The public verb for a model on disk: it is read, compressed and written block by block, and can be resumed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from eckart import processes
from eckart.blocks.blockwise_model import BlockwiseModel
from eckart.blocks.tensor_cache import ScratchSpace
from eckart.cache.latent_codes import WHOLE, check_bits
from eckart.checkpoint.gguf import load_gguf_model
from eckart.checkpoint.identity import PROCESSES, identity_of_run
from eckart.checkpoint.load import check_compressible, load_model
from eckart.checkpoint.nested import factors_of, sized
from eckart.checkpoint.output import check_apart, check_output, placed
from eckart.checkpoint.process_folder import ProcessFolder
from eckart.checkpoint.processor import copy_processor, has_processor, load_processor
from eckart.checkpoint.run_checkpoint import DiskRunCheckpoint, check_same_run, read_manifest
from eckart.checkpoint.run_folder import RunFolder
from eckart.checkpoint.save import MAX_SHARD_SIZE, description, reason_of, save_all_but_blocks
from eckart.checkpoint.source import open_model
from eckart.checkpoint.tokenizer import copy_tokenizer, load_tokenizer
from eckart.checkpoint.unchanged import SourceFiles
from eckart.compression.callback import Callback
from eckart.compression.estimate import Estimate
from eckart.compression.nested import check_nested
from eckart.compression.plan import check_keep, make_plan
from eckart.compression.result import CompressionResult
from eckart.data.calibration import DEFAULT_SAMPLES, SELF, Calibration, calibrate
from eckart.data.samples import Sample
from eckart.data.text import PYTHON_DOCS
from eckart.device import free_memory, host_memory, resolve_device
from eckart.errors import (
    CalibrationError,
    CheckpointError,
    DamagedRunError,
    EckartError,
    InterruptedRun,
    ToldElsewhereError,
    warn,
)
from eckart.methods.layout import BYTES_PER_NUMBER
from eckart.methods.recipe import Recipe
from eckart.methods.recipes.loader import load_recipe
from eckart.methods.recipes.published import DEFAULT_KEEP, DEFAULT_RECIPE
from eckart.methods.targets import overrides_for
from eckart.run.alike import check_alike
from eckart.run.cache_share import cached_linears, check_cache_share, with_cache_share
from eckart.run.check.run import check_model
from eckart.run.compress import Job
from eckart.run.finished import finished_report
from eckart.run.random_state import random_state_kept
from eckart.run.renamed import renamed
from eckart.run.requirements import check_requirements
from eckart.run.scratch import Scratch
from eckart.run.whole_size import check_size, check_size_is_met, recipe_within_size

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@renamed(observer="callback")
@random_state_kept()
@processes.together()
def compress_checkpoint(
    source: str | Path,
    output: str | Path,
    recipe: str | Path | Recipe = DEFAULT_RECIPE,
    keep: float | None = None,
    calibration: str | Sequence[Sample] = PYTHON_DOCS,
    *,
    size: int | None = None,
    samples: int = DEFAULT_SAMPLES,
    length: int | None = None,
    seed: int = 0,
    chat: bool = False,
    device: str = "auto",
    overrides: Iterable[str] = (),
    only: str | Iterable[str] = (),
    ignore: str | Iterable[str] = (),
    memory: int | None = None,
    dtype: torch.dtype | None = None,
    max_shard_size: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    allow_partial: bool = False,
    latent_cache: int | None = None,
    cache_keep: float | None = None,
    nested: bool = False,
    trust_remote_code: bool = False,
    callback: Callback | None = None,
) -> CompressionResult:
    """Compress a model on disk into a new folder, holding one block of it at a time.

    The work goes on in ``OUTPUT.unfinished``. What is finished there is kept if the run stops for any reason, and a
    run with ``resume`` goes on behind it; the result is the same to the byte. ``OUTPUT`` appears when all is done.
    Several processes that all call this share the work, and go on if there are as many as before.

    Args:
        source: a local folder, a hub id, or a ``.gguf`` file (which is converted first, in memory).
        output: the folder to make.
        recipe: as for :func:`eckart.compress`, like all that follow up to ``overrides``.
        keep: bytes to keep; 0.8 by default.
        calibration: text to calibrate on, or samples.
        size: bytes that the files of weights may take, in place of ``keep``.
        samples: how many calibration samples to draw.
        length: tokens in each.
        seed: of the draw, and of the order of training.
        chat: write prompts and answers of the calibration by the model's chat template.
        device: where blocks are run.
        overrides: changes to the recipe.
        only: patterns of the linear layers to compress, as for :func:`eckart.compress`.
        ignore: patterns of those to leave as they are.
        memory: bytes that the process may take; hidden states go to files if they would not fit. By default what is
            free.
        dtype: of what is written; by default that of the model's files.
        max_shard_size: bytes of a file of weights. By default each block has a file.
        resume: go on with an unfinished run, if there is one.
        overwrite: replace ``output`` if Eckart wrote it, and start again if there is an unfinished run.
        allow_partial: as for :func:`eckart.compress`.
        latent_cache: bits of the latents that the model keeps in its key-value cache once it is loaded
            (:func:`eckart.latent_cache`); None for keys and values.
        cache_keep: share of that cache to keep: layers that give keys and values have ranks that sum to it, whatever
            ``keep`` says of others. Latents have 16 bits then unless ``latent_cache`` says less.
        nested: as for :func:`eckart.compress`.
        trust_remote_code: whether Python code that comes with the model may be run.
        callback: is told what happens.

    Returns:
        The ranks, bytes and errors of all layers, and what this run took.

    Raises:
        EckartError: with a message that says what to do. The source is never touched.
        ModelFitsError: the model is not larger than ``size`` as it is.
        InterruptedRun: Ctrl-C; says what is kept.
    """
    check_requirements()
    check_size(size, keep)
    asked = DEFAULT_KEEP if keep is None else keep
    check_keep(asked)
    check_bits(latent_cache)
    check_cache_share(cache_keep)
    if not isinstance(calibration, str | list | tuple):
        raise CalibrationError(
            "Calibration of a model on disk is the name of a text, 'self', or a list of samples; found "
            f"{type(calibration).__name__}. Token ids are taken by eckart.compress only."
        )
    text = calibration if isinstance(calibration, str) else None
    changes = [*overrides, *overrides_for(only, ignore)]
    chosen = load_recipe(recipe, changes, asked)
    if nested:
        check_nested(chosen)
    place = resolve_device(device, processes.turn())
    output = placed(output)
    path = Path(source)
    is_model = path.is_file() or (path / "config.json").exists() or not path.exists()  # the last may be of a hub
    model_path = path if is_model else None
    check_apart(output, [model_path, text, None if isinstance(recipe, Recipe) else str(recipe)])
    folder, first = RunFolder(output), processes.rank() == 0
    finished_before, may_replace = processes.first(lambda: _opened(folder, resume=resume, overwrite=overwrite))
    try:
        with _what_is_kept_is_said(folder):
            files, model_folder = _as_folder(source, folder)
            model, weights = open_model(model_folder, folder.offload, dtype=dtype, trust_remote_code=trust_remote_code)
            if size is not None and model.dtype.itemsize > BYTES_PER_NUMBER:
                check_size_is_met(dtype)
                warn("The model is in float32. Since a size was asked for, what is no code is written in bfloat16.")
                dtype = torch.bfloat16
                model, weights = open_model(
                    model_folder, folder.offload, dtype=dtype, trust_remote_code=trust_remote_code
                )
            check_compressible(model)
            if cache_keep is not None:
                changes.append(with_cache_share(chosen, cache_keep, cached_linears(model, weights)))
                chosen = load_recipe(recipe, changes, asked)
                latent_cache = latent_cache or WHOLE
            # Which of several recipes a size asks for is not known yet.
            needs_data = chosen.needs_data or size is not None
            reads_text = needs_data and text not in (None, SELF)
            tokenizer = _tokenizer(source, needed=reads_text, trust_remote_code=trust_remote_code)
            tokens = None
            if needs_data or text is None:
                limit = memory if memory is not None else host_memory() + free_memory(torch.device("cpu"))
                reader = _reader(source, tokenizer, trust_remote_code=trust_remote_code) if reads_text else None
                tokens = _calibrate(
                    calibration, model_folder, model, reader, samples, length, seed, chat, limit, trust_remote_code
                )
            room = None
            if size is not None:
                chosen, room = recipe_within_size(
                    model, lambda share: load_recipe(recipe, changes, share), size, weights, tokens
                )
                asked = room.keep
                if nested:
                    check_nested(chosen)
            plan = make_plan(model, chosen, asked, weights, tokens)
            if room is not None:
                plan = replace(plan, shares=room.shares)
            tokens = tokens if chosen.needs_data else None
            blockwise = BlockwiseModel(model, plan.blocks, weights, place, ScratchSpace(), tokens).settled()
            check = check_model(blockwise, plan, allow_partial=allow_partial)
            files = files or weights.files
            identity = identity_of_run(chosen, asked, tokens, model, files.hashes(), place, size, latent_cache, nested)
            check_alike(identity | {"options": {"output": str(output), "resume": resume, "overwrite": overwrite}})
            if finished_before and (found := finished_report(output, identity, overwrite)):
                return found
            finished = processes.first(lambda: _finished_blocks(folder, identity)) if resume else None
            job = Job(blockwise, plan, callback or Callback(), check, nested)
            job.warn()
            cost = job.estimate(memory)
            processes.first(lambda: _begun(job, folder, clear=finished is None, overwrite=may_replace))
            if not first:
                return _beside(job, cost, folder, finished)
            scratch = Scratch.at(cost, folder.streams, folder.student, folder.measurements)
            run_checkpoint = DiskRunCheckpoint(
                folder, identity, model, scratch.streams, distils=chosen.distillation.needs_data
            )
            report = job.run(cost, scratch, run_checkpoint=run_checkpoint, finished=finished or 0)
            model.config.quantization_config = description(model, report, _name_of(source), identity)
            model.config.quantization_config.latent_cache = latent_cache
            report.warnings.extend(weights.notes)
            with report.costs.timings.measure("files"):
                if report.nested is not None:
                    report.nested = sized(report.nested, factors_of(folder.model))
                run_checkpoint.check(len(plan.blocks))
                if tokenizer is None:
                    copy_tokenizer(source, folder.model)
                copy_processor(source, folder.model)
                needless = save_all_but_blocks(
                    folder.model, model, plan.blocks, weights, report, tokenizer, max_shard_size
                )
                files.check_content()
                folder.publish(needless)
                processes.wait()  # for the output
                processes.wait()  # for the folders of the others
        return report
    finally:
        if first:
            folder.close()


def _opened(folder: RunFolder, *, resume: bool, overwrite: bool) -> tuple[bool, bool]:
    """Open the folder, and return whether the output was finished before, and whether it may be replaced."""
    folder.recover()
    begun = folder.mark()
    if begun is not None and not (resume or overwrite):
        raise CheckpointError(
            f"An unfinished run is in {folder.path}. Add --resume to go on with it, or --overwrite to start again."
        )
    finished_before = resume and folder.output.is_dir() and begun is None
    may_replace = overwrite or (resume and begun is not None and begun.overwrite)
    if overwrite or not finished_before:
        check_output(folder.output, overwrite=may_replace)
    folder.open(overwrite=may_replace)
    return finished_before, may_replace


def _finished_blocks(folder: RunFolder, identity: dict[str, Any]) -> int | None:
    """Return how many blocks an earlier run has finished; None if there was none."""
    manifest = read_manifest(folder)
    if manifest is None:
        return None
    before, now = (known.get(PROCESSES, 1) for known in (manifest.identity, identity))
    if before != now:
        raise CheckpointError(
            f"The run in {folder.path} was made by {before} processes, and this one by {now}: sums are rounded in "
            f"another way. Start {before} (torchrun --nproc-per-node {before} -m eckart ...), or start again with "
            "--overwrite."
        )
    check_same_run(manifest.identity, identity, folder.path)
    return manifest.finished


def _begun(job: Job, folder: RunFolder, *, clear: bool, overwrite: bool) -> None:
    job.check_space(folder)
    folder.begin(clear=clear, overwrite=overwrite)


def _beside(job: Job, cost: Estimate, folder: RunFolder, finished: int | None) -> CompressionResult:
    """Do the part of a run of a process that is not the first one."""
    folder.begun = True
    own = ProcessFolder(folder.path)
    own.begin(clear=finished is None)
    scratch = Scratch.at(cost, own.streams, own.student, own.measurements)
    own.scratch = scratch.streams
    report = job.run(cost, scratch, run_checkpoint=own, finished=finished or 0)
    processes.wait()
    own.close()
    processes.wait()
    return report


@contextmanager
def _what_is_kept_is_said(folder: RunFolder) -> Iterator[None]:
    """Say after a failure which blocks are finished."""
    try:
        yield
    except KeyboardInterrupt:
        raise InterruptedRun(f"Interrupted. {_kept(folder)}") from None
    except (DamagedRunError, ToldElsewhereError):
        raise  # what is kept is of no use
    except EckartError as error:
        if not folder.begun:  # nothing has changed
            raise
        raise type(error)(f"{error} {_kept(folder)}") from error
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder.output} could not be written: {reason_of(error)}. {_kept(folder)}") from error


def _kept(folder: RunFolder) -> str:
    if folder.published:
        return f"{folder.output} is whole."
    try:
        manifest = read_manifest(folder)
    except CheckpointError:
        manifest = None
    if manifest is None and processes.rank():
        return "What is kept is where process 0 works."
    if manifest is None:
        return "No block was finished, and nothing was written."
    return f"{manifest.finished} finished blocks are kept in {folder.path}: go on with --resume."


def _as_folder(source: str | Path, folder: RunFolder) -> tuple[SourceFiles | None, str | Path]:
    """Return a folder or hub id with the model, and the file that it was converted from, if it was."""
    path = Path(source)
    if path.suffix != ".gguf":
        return None, source
    if not path.is_file():
        raise CheckpointError(f"There is no file {path}.")
    files = SourceFiles([path])
    digest = files.hashes()[path.name]
    converted = folder.path / f"converted-{digest[:16]}"

    def convert() -> None:
        if converted.exists():
            return
        partial = folder.path / "converting"
        load_gguf_model(path, torch.bfloat16).save_pretrained(partial, max_shard_size=MAX_SHARD_SIZE)
        files.check()
        partial.rename(converted)

    processes.first(convert)
    return files, converted


def _tokenizer(source: str | Path, *, needed: bool, trust_remote_code: bool) -> PreTrainedTokenizerBase | None:
    """Return the model's tokenizer; None if there is none, or one that cannot be loaded and is not needed."""
    try:
        return load_tokenizer(source, trust_remote_code=trust_remote_code)
    except CheckpointError as error:
        if needed:
            raise
        warn(f"{error} Its files are copied as they are.")
        return None


def _reader(source: str | Path, tokenizer: PreTrainedTokenizerBase | None, *, trust_remote_code: bool) -> Any | None:
    """Return what makes the inputs of the model: its processor, if it has one, or its tokenizer."""
    return load_processor(source, trust_remote_code=trust_remote_code) if has_processor(source) else tokenizer


def _calibrate(
    calibration: str | Sequence[Sample],
    source: str | Path,
    model: PreTrainedModel,
    tokenizer: Any | None,
    samples: int,
    length: int | None,
    seed: int,
    chat: bool,
    limit: int,
    trusted: bool,
) -> Calibration:
    if calibration == SELF:
        # Text is sampled token by token, and each needs every weight: from files that would take forever.
        needed = 2 * sum(p.numel() * p.element_size() for p in model.parameters())
        if host_memory() + needed > limit:
            raise EckartError(
                f"Text sampled from the model needs the whole model in memory, about {needed / 1e9:.1f} GB, which is "
                "more than there is. Calibrate on a text instead (--calibration FILE)."
            )
        model = load_model(source, trust_remote_code=trusted)
    return calibrate(
        calibration, samples=samples, length=length, seed=seed, tokenizer=tokenizer, model=model, chat=chat
    )


def _name_of(source: str | Path) -> str:
    # Of a local folder, the name and not the way to it: what is made here is passed on to others.
    return Path(source).name if Path(source).exists() else str(source)
