"""Writes a compressed model as a Hugging Face folder: all of it or nothing."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from safetensors import SafetensorError
from torch import Tensor

from eckart.blocks.block import Block
from eckart.checkpoint.card import model_card
from eckart.checkpoint.config import EckartConfig
from eckart.checkpoint.files import INDEX_NAME, PART, PREFIX, rename_shards, repack, write_index, write_shard
from eckart.checkpoint.identity import PROCESSES, SIZE, versions
from eckart.checkpoint.origin import CARD_NAME, copy_licences
from eckart.checkpoint.output import check_apart, check_output
from eckart.checkpoint.records import write_records
from eckart.checkpoint.run_folder import RunFolder
from eckart.checkpoint.saveable import check_saveable, records_beside, records_now
from eckart.checkpoint.source import FileWeights
from eckart.checkpoint.standard import nothing_is_factored, standardise, why_not_standard
from eckart.checkpoint.stock import stock_field, write_stock
from eckart.compression.embedding import EmbeddingRecord
from eckart.compression.result import CompressionResult
from eckart.errors import CheckpointError, warn
from eckart.layers import fused_layers
from eckart.layers.fused import runs_of
from eckart.layers.linear_stack import linear_stacks
from eckart.methods.precision import Bits16

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MAX_SHARD_SIZE = "5GB"
PARCEL_BYTES = 500_000_000  # of tensors outside the blocks that are read and written together


@overload
def save(
    model: PreTrainedModel,
    folder: str | Path,
    /,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    overwrite: bool = False,
    max_shard_size: int | str = MAX_SHARD_SIZE,
) -> None: ...


@overload
def save(
    model: PreTrainedModel,
    report: CompressionResult,
    folder: str | Path,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    overwrite: bool = False,
    max_shard_size: int | str = MAX_SHARD_SIZE,
) -> None: ...


def save(
    model: PreTrainedModel,
    report: CompressionResult | str | Path | None = None,
    folder: str | Path | None = None,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    overwrite: bool = False,
    max_shard_size: int | str = MAX_SHARD_SIZE,
) -> None:
    """Write a compressed model: ``save(model, report, folder)`` or ``save(model, folder)``.

    Args:
        model: as :func:`eckart.compress` left it, or loaded from a compressed folder, and trained or resized since.
        report: what :func:`eckart.compress` returned for it. Without it the records of the folder that the model was
            loaded from are written again, if that is on this machine.
        folder: to write; appears only when it is complete.
        tokenizer: is written beside the model.
        overwrite: replace ``folder`` if it exists and Eckart wrote it.
        max_shard_size: of one weight file.

    Raises:
        CheckpointError: ``model`` is not compressed, or layers of it were replaced; ``folder`` exists, or holds
            something that Eckart did not write, or the disk is full.
    """
    target = folder if folder is not None else report
    if target is None or isinstance(target, CompressionResult):
        raise CheckpointError("save needs the folder to write: save(model, folder) or save(model, report, folder).")
    check_saveable(model)
    source = model.config.name_or_path
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    reads = [Path(source)] if source else []
    with new_folder(target, overwrite=overwrite, needed=size, reads=reads) as partial:
        result = report if isinstance(report, CompressionResult) else None
        write_model(partial, model, result, tokenizer, max_shard_size)


def write_model(
    partial: Path,
    model: PreTrainedModel,
    report: CompressionResult | None,
    tokenizer: PreTrainedTokenizerBase | None,
    max_shard_size: int | str = MAX_SHARD_SIZE,
) -> None:
    """Write a compressed model into a folder of :func:`new_folder`; arguments as for :func:`save`."""
    result = report or records_beside(model.config.name_or_path)
    if result is not None and result.nested is not None:
        result = records_now(model, result)
    config = model.config.quantization_config
    config.weights = INDEX_NAME
    try:
        model.save_pretrained(partial, max_shard_size=max_shard_size)
    finally:
        config.weights = None
    rename_shards(partial)
    needless = standardised(partial, model)
    for name in needless:
        (partial / name).unlink()
    if result is not None:
        write_documents(partial, model, result, tokenizer, again=report is None, standard=bool(needless))
    elif tokenizer is not None:
        tokenizer.save_pretrained(partial)


def save_all_but_blocks(
    folder: Path,
    model: PreTrainedModel,
    blocks: Sequence[Block],
    weights: FileWeights,
    report: CompressionResult,
    tokenizer: PreTrainedTokenizerBase | None,
    max_shard_size: int | None = None,
) -> list[str]:
    """Write what belongs to a compressed model beside the shards of its blocks, which are in ``folder`` already.

    Args:
        folder: of the model.
        model: with its :func:`description` in its config; its tensors are in files.
        blocks: of it.
        weights: where.
        report: of the run.
        tokenizer: is written beside the model.
        max_shard_size: bytes of a file of weights; None for a file for each block.

    Returns:
        The names of files that the model is whole without, since their tensors are in others too.
    """
    for number, names in enumerate(_parcels(model, blocks)):
        # A buffer is in the model itself; a parameter is in its file.
        tensors = {name: weights.read(name) if tensor.is_meta else tensor for name, tensor in names.items()}
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        write_shard(folder / f"{PREFIX}rest-{number:05d}.safetensors", tensors)
    shards = f"{PREFIX}*.safetensors"
    needless: list[str] = []
    if max_shard_size is not None:
        needless = [path.name for path in folder.glob(shards)]
        repack(folder, max_shard_size)
        shards = f"{PART}*.safetensors"
    write_index(folder, shards)
    config = model.config.quantization_config
    config.weights = INDEX_NAME
    try:
        model.save_pretrained(folder, state_dict={})
    finally:
        config.weights = None
    own_format = standardised(folder, model, shards)
    write_documents(folder, model, report, tokenizer, standard=bool(own_format))
    return needless + own_format


def standardised(folder: Path, model: PreTrainedModel, shards: str = f"{PREFIX}*.safetensors") -> list[str]:
    """Write a model in a standard format too if nothing in it is factored. Where that cannot hold it, say so.

    Args:
        folder: of the model, in our own format.
        model: with its layers.
        shards: pattern of its files of weights.

    Returns:
        The names of the files that are then needless.
    """
    config = model.config.quantization_config
    if config.kept:
        found = stock_field(model, config)
        if found is None and all(side.get("direct") for side in config.kept.values()):
            warn(
                f"Only hidden units are fewer, but no plain {type(model).__name__} has these shapes by one number of "
                "its config alone. It is written in Eckart's own format, and loads where eckart is imported."
            )
        return [] if found is None else write_stock(folder, model, config, shards, *found)
    if not nothing_is_factored(config):
        return []
    reason = why_not_standard(model, config)
    if reason is None:
        return standardise(folder, model, config, shards)
    if config.bases:  # an allocation that chooses them could as well have chosen factors
        return []
    warn(
        f"Nothing is factored, but compressed-tensors cannot hold this model: {reason}. It is written in Eckart's own "
        "format, and loads where eckart is imported."
    )
    return []


def _parcels(model: PreTrainedModel, blocks: Sequence[Block]) -> list[dict[str, Tensor]]:
    """Return the tensors of a model that are in none of its blocks, in parcels that can be held at once."""
    ignored = {*(model._keys_to_ignore_on_save or ()), *(getattr(model, "all_tied_weights_keys", None) or {})}
    parcels: list[dict[str, Tensor]] = [{}]
    for name, tensor in model.state_dict().items():
        if name in ignored or any(block.holds(name) for block in blocks):
            continue
        if parcels[-1] and sum(t.nbytes for t in parcels[-1].values()) + tensor.nbytes > PARCEL_BYTES:
            parcels.append({})
        parcels[-1][name] = tensor
    return parcels


def write_documents(
    folder: Path,
    model: PreTrainedModel,
    report: CompressionResult,
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    again: bool = False,
    standard: bool = False,
) -> None:
    """Write the tokenizer, the licences of the original model, the records and the model card.

    Args:
        folder: of the model.
        model: with its config.
        report: of its compression.
        tokenizer: is written if there is one.
        again: whether the model was loaded since it was compressed.
        standard: whether it is written in the standard format.
    """
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    write_records(folder, report)
    licences = copy_licences(model.config.name_or_path, folder)
    card = model_card(model, report, again=again, standard=standard, licences=licences)
    (folder / CARD_NAME).write_text(card, encoding="utf-8")


def description(
    model: PreTrainedModel, report: CompressionResult, source: str, identity: dict[str, Any] | None = None
) -> EckartConfig:
    """Return what is written into the model's config of what was done to it.

    Args:
        model: that was compressed.
        report: of the run.
        source: name of the original model.
        identity: of the run, if the model was compressed from its files.
    """
    recipe = report.recipe
    return EckartConfig(
        ranks={layer.path: layer.rank for layer in report.layers if layer.base or recipe.layout.changes(layer.rank)},
        columns={layer.path: layer.columns for layer in report.layers if layer.columns is not None},
        sparsities={layer.path: layer.sparsity for layer in report.layers if layer.sparsity is not None},
        bases={layer.path: layer.base.model_dump(mode="json") for layer in report.layers if layer.base},
        kept={
            layer.path: {"side": layer.kept, **({"direct": True} if layer.direct else {})}
            for layer in report.layers
            if layer.kept
        },
        joint=list(fused_layers(model).values()),
        joint_runs={path: runs for path in fused_layers(model) if (runs := runs_of(model, f"{path}.joint")) > 1},
        embedding=None if report.embedding is None else embedding_of(report.embedding),
        # How singular values were split is seen in the factors; what is stored is the same layout.
        structure=recipe.structure.model_dump(mode="json", exclude={"split"}),
        precision=None if recipe.precision == Bits16() else recipe.precision.model_dump(mode="json"),
        affine=recipe.layout.affine,
        ordered=[layer.path for layer in report.layers if layer.in_order],
        expanded={path: stack.layout._asdict() for path, stack in linear_stacks(model).items()},
        own_names=True,
        recipe=recipe.model_dump(mode="json"),
        calibration=report.calibration.model_dump() if report.calibration else None,
        provenance={
            "source": source,
            "keep": identity["keep"] if identity else report.requested_keep,
            **({SIZE: identity[SIZE]} if identity and SIZE in identity else {}),
            "model": identity["model"] if identity else {"revision": getattr(model.config, "_commit_hash", None)},
            "compute": identity["compute"] if identity else None,
            "versions": versions(recipe),
            **({PROCESSES: identity[PROCESSES]} if identity and PROCESSES in identity else {}),
        },
    )


def embedding_of(record: EmbeddingRecord) -> dict[str, Any]:
    """Return what is written into the model's config of its embedding."""
    return {
        "path": record.embedding,
        "head": record.head,
        "tied": record.tied,
        "precision": record.precision.model_dump(mode="json"),
    }


@contextmanager
def new_folder(
    folder: str | Path, *, overwrite: bool, needed: int = 0, reads: Iterable[str | Path | None] = ()
) -> Iterator[Path]:
    """Give a partial folder to write into; it gets its name when the body is done, and vanishes if the body fails.

    Args:
        folder: to make.
        overwrite: replace one that Eckart wrote.
        needed: bytes that will be written.
        reads: what must not be touched.

    Raises:
        CheckpointError: it cannot be written, or must not be; see :func:`eckart.checkpoint.output.check_output`.
    """
    folder = Path(folder)
    check_new_folder(folder, overwrite=overwrite, needed=needed, reads=reads)
    work = RunFolder(folder)
    work.open(overwrite=overwrite)
    try:
        work.begin(clear=True, overwrite=overwrite)
        yield work.model
        work.publish()
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder} could not be written: {reason_of(error)}. Nothing was left behind.") from error
    finally:
        work.close()


def check_new_folder(
    folder: str | Path, *, overwrite: bool, needed: int = 0, reads: Iterable[str | Path | None] = ()
) -> None:
    """Raise what :func:`new_folder` would raise before its body."""
    folder = Path(folder)
    check_apart(folder, reads)
    work = RunFolder(folder)
    work.recover()
    if work.mark() is not None and work.manifest.exists():
        raise CheckpointError(
            f"An unfinished run of `eckart compress` is in {work.path}. Go on with it, move it away, or use another "
            "output."
        )
    check_output(folder, overwrite=overwrite, needed=needed)


def reason_of(error: Exception) -> str:
    """Return why something could not be written."""
    full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
    return "the disk is full" if full else str(error)
