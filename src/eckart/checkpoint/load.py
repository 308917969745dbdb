"""Loads a model to compress or to evaluate: a local folder, a hub id or a GGUF file."""

from __future__ import annotations

import reprlib
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, PreTrainedModel
from transformers.utils import cached_file

from eckart.checkpoint.folder import QUIET, check_folder, weight_files
from eckart.checkpoint.gguf import load_gguf_model
from eckart.checkpoint.guard import METHOD
from eckart.checkpoint.left_out import note_on_left_out
from eckart.checkpoint.library import loading, needs_code, reason_of, why_absent
from eckart.checkpoint.loaded import remember_files
from eckart.checkpoint.nested import NESTED_NAME, check_share
from eckart.checkpoint.packed import STANDARD, described_as_ours
from eckart.checkpoint.tensors import check_dtypes, stored_tensors
from eckart.checkpoint.unchanged import SourceFiles
from eckart.errors import CheckpointError, EckartError, UnsupportedModelError, warn
from eckart.kinds import Loader, loader_of, loader_of_code, names_of_kinds


def load_model(
    source: str | Path,
    *,
    dtype: torch.dtype | None = None,
    offload: Path | None = None,
    keep: float | None = None,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """Return the model at ``source``, on the CPU, in evaluation mode.

    Its class is the one that the ``architectures`` of its ``config.json`` names (:mod:`eckart.kinds`).

    May be called from several threads; they load one after another.

    Args:
        source: a local folder (dense or compressed), a hub id, or a ``.gguf`` file.
        dtype: of its weights; None for the dtype that they are stored in (bfloat16 for a GGUF file).
        offload: leave the weights in their files, to be read when they are used, and write those that are not stored
            as the model has them in memory into this folder. Not for ``.gguf`` files.
        keep: load a smaller size of a folder with nested ranks (``eckart compress --nested``): at most this share of
            the bytes of its linear layers; None for all that the folder holds. Weights are read at their full size.
        trust_remote_code: whether Python code that comes with the model may be run. Without it a model whose class
            transformers has is loaded with that, and any other is refused.

    Raises:
        CheckpointError: there is no such model, or it cannot be read.
        UnsupportedModelError: transformers has no class of the name, or none of a kind that is known here.
        EckartError: ``keep`` is no share.
    """
    model, note = load_with_note(source, dtype=dtype, offload=offload, keep=keep, trust_remote_code=trust_remote_code)
    if note is not None:
        warn(note)
    return model


def load_with_note(
    source: str | Path,
    *,
    dtype: torch.dtype | None = None,
    offload: Path | None = None,
    keep: float | None = None,
    trust_remote_code: bool = False,
) -> tuple[PreTrainedModel, str | None]:
    """Return a model as :func:`load_model` does, and what to say of tensors that were left out, if there are some."""
    with loading():
        return _load(source, dtype, offload, keep, trust_remote_code)


def _load(
    source: str | Path, dtype: torch.dtype | None, offload: Path | None, keep: float | None, trusted: bool
) -> tuple[PreTrainedModel, str | None]:
    path = Path(source)
    if path.suffix == ".gguf" and not path.is_dir():
        if not path.is_file():
            raise CheckpointError(f"There is no file {path}.")
        if keep is not None:
            raise CheckpointError(f"{path} is a .gguf file, of one size; expected a folder with nested ranks for keep.")
        return load_gguf_model(path, dtype or torch.bfloat16).eval(), None
    config = _load_config(source, trusted)
    _take_as_ours(config, source)
    if keep is not None:
        _ask_for(config, keep, source)
    loader = _find_loader(config, source, trusted)
    files = SourceFiles(weight_files(source))
    onloaded = {} if offload is None else {"device_map": {"": "disk"}, "offload_folder": offload}
    try:
        model, info = loader.loads.from_pretrained(
            source,
            config=config,
            dtype=dtype or "auto",
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # told below: the library tells them in a log that may be off
            trust_remote_code=trusted,
            **onloaded,
        )
    except EckartError:
        raise
    except Exception as error:  # OSError for absent files, SafetensorError for damaged ones, RuntimeError for shapes
        damaged = _damaged_file(path)
        which = f" ({damaged.name} is damaged)" if damaged else ""
        raise CheckpointError(f"The weights of {source} cannot be loaded{which}: {reason_of(error, source)}") from error
    if info["mismatched_keys"]:
        name, found, expected = sorted(info["mismatched_keys"])[0]
        raise CheckpointError(
            f"{len(info['mismatched_keys'])} weights of {source} have another shape than its config.json says, such as "
            f"{name!r}: found {tuple(found)}, expected {tuple(expected)}. Use the config.json that belongs to them."
        )
    missing = sorted(info["missing_keys"])
    if missing:
        raise CheckpointError(
            f"{source} lacks {len(missing)} weights that {type(model).__name__} needs, such as {missing[0]!r}. "
            "Expected a complete checkpoint, of the class that its config.json names."
        )
    files.check()
    files = files if files.paths else SourceFiles(weight_files(source))  # that were downloaded just now
    stored = stored_tensors(files.paths)
    if offload is None:
        remember_files(model, files)
    if getattr(model, "hf_quantizer", None) is None:  # a quantizer knows itself what its tensors are stored as
        check_dtypes(model, stored)
    return model.eval(), note_on_left_out(str(source), model, info["unexpected_keys"], stored)


def _take_as_ours(config: Any, source: str | Path) -> None:
    """Put our own config into that of a model which we wrote in the standard format."""
    found = getattr(config, "quantization_config", None)
    if isinstance(found, dict) and found.get("quant_method") == STANDARD:
        config.quantization_config = described_as_ours(source) or found


def _ask_for(config: Any, keep: float, source: str | Path) -> None:
    """Let a config ask for a smaller size of a folder with nested ranks.

    Raises:
        CheckpointError: the model is not compressed here.
        EckartError: ``keep`` is no share.
    """
    check_share(keep)
    found = getattr(config, "quantization_config", None)
    if not isinstance(found, dict) or found.get("quant_method") != METHOD:
        raise CheckpointError(
            f"{source} is not compressed by eckart with factors; expected a folder that `eckart compress --nested` "
            "wrote for keep. Load it without."
        )
    if not Path(source).is_dir():
        cached_file(str(source), NESTED_NAME, **QUIET)  # beside what the base library downloads
    found["keep"] = float(keep)


def check_compressible(model: PreTrainedModel) -> None:
    """Raise if ``model`` is quantized or compressed already."""
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is None:
        return
    method = quantizer.quantization_config.quant_method
    if method == METHOD:
        raise UnsupportedModelError(
            "The model is already compressed. Start from the original one, or multiply the factors back with "
            "`eckart merge` first."
        )
    # One of transformers' own is a member of an enum, whose text it is.
    raise UnsupportedModelError(
        f"The model is quantized ({str.__str__(method)}). Start from the original 16-bit or 32-bit one."
    )


def _damaged_file(folder: Path) -> Path | None:
    """Return the first safetensors file in ``folder`` that is truncated or no such file at all."""
    for path in sorted(folder.glob("*.safetensors")) if folder.is_dir() else ():
        try:
            with safe_open(path, framework="pt"):
                pass
        except (OSError, SafetensorError):
            return path
    return None


def _load_config(source: str | Path, trusted: bool) -> Any:
    path = Path(source)
    if path.is_file():
        raise CheckpointError(f"{source} is a file; expected a model's folder, a hub id or a .gguf file.")
    if path.is_dir():
        check_folder(path)
        if not (path / "config.json").is_file():
            raise CheckpointError(f"The folder {source} has no config.json, so it is not a model.")
    try:
        return AutoConfig.from_pretrained(source, trust_remote_code=trusted)
    except EckartError:
        raise
    except Exception as error:
        if not path.is_dir():
            raise CheckpointError(why_absent(error, source)) from error
        raise CheckpointError(
            f"{str(source)!r} has a config.json that cannot be read: {reason_of(error, source)}"
        ) from error


def _find_loader(config: Any, source: str | Path, trusted: bool) -> Loader:
    found = getattr(config, "architectures", None) or []
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise CheckpointError(
            f"The config.json of {source} has architectures = {reprlib.repr(found)}; expected a list of names."
        )
    loader = loader_of(found, config.model_type)
    own = None if loader else loader_of_code(getattr(config, "auto_map", None))
    if own is not None and not trusted:
        raise CheckpointError(needs_code(source))
    loader = loader or own
    if loader is None:
        raise UnsupportedModelError(
            f"{source} is a {', '.join(found) or config.model_type} model, which is none that can be loaded. Expected "
            f"architectures in its config.json that transformers has a class for, of {names_of_kinds()}."
        )
    return loader
