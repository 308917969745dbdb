"""Looks at a model's folder before anything in it is opened: every file that is read from it must be its own."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from eckart.checkpoint.guard import GUARD, METHOD
from eckart.errors import CheckpointError
from eckart.files.names import JSON_LIMIT, file_inside, read_json

TEMPLATES = "additional_chat_templates"  # the one folder of a model that transformers looks into
INDEX_SUFFIX = ".index.json"
STANDARD = tuple(  # the first is taken
    name for file in ("model.safetensors", "pytorch_model.bin") for name in (file, f"{file}{INDEX_SUFFIX}")
)
OBJECTS = ("quantization_config", "auto_map", "rope_parameters", "rope_scaling", "text_config")  # of config.json
QUIET = {f"_raise_exceptions_for_{kind}": False for kind in ("missing_entries", "connection_errors", "gated_repo")}


def check_folder(folder: str | Path) -> None:
    """Raise if a model's folder holds or names a file that must not be opened.

    Args:
        folder: what a model is loaded from; one that is no local folder is left to the library that downloads it.

    Raises:
        CheckpointError: says which file, and why; see :func:`eckart.files.names.file_inside`.
    """
    if not str(folder) or not Path(folder).is_dir():
        return
    folder = Path(folder)
    try:
        entries = list(_entries(folder))
    except OSError as error:
        raise CheckpointError(f"The folder {folder} cannot be read: {error.strerror}.") from error
    indices = []
    for path in entries:
        name = path.relative_to(folder).as_posix()
        file_inside(folder, name, limit=JSON_LIMIT if path.suffix == ".json" else None)
        if name.endswith(INDEX_SUFFIX):
            indices.append(name)
    if (folder / "config.json").exists():
        _check_objects(folder)
    weights = _named_weights(folder)
    if weights is not None:
        file_inside(folder, weights)
        if weights.endswith(INDEX_SUFFIX) and weights not in indices:
            indices.append(weights)
    for index in indices:
        for shard in files_of_index(folder, index):
            # One that is not there is said by what loads it, which knows whether it is needed.
            if (folder / shard).exists():
                file_inside(folder, shard)
            elif not _stays_inside(shard):
                raise CheckpointError(f"{folder / index} names the file {shard!r}, which is outside its folder.")
    for name in _tokenizer_files(folder):
        file_inside(folder, name, limit=JSON_LIMIT)


def weight_files(source: str | Path) -> list[Path]:
    """Return the files of weights that a model is loaded from, as far as they are on this machine."""
    folder = Path(source)
    if not folder.is_dir():
        cached = cached_file(str(source), "config.json", local_files_only=True, **QUIET)
        if cached is None:
            return []
        folder = Path(cached).parent
    name = _named_weights(folder)
    if name is None:
        name = next((name for name in STANDARD if (folder / name).is_file()), None)
    if name is None:
        return []
    names = files_of_index(folder, name) if name.endswith(INDEX_SUFFIX) else [name]
    return [folder / name for name in names if (folder / name).is_file()]


def files_of_index(folder: str | Path, index: str) -> list[str]:
    """Return the names of the weight files that an index lists.

    Raises:
        CheckpointError: it is no index.
    """
    data = read_json(folder, index)
    weights = data.get("weight_map") if isinstance(data, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(name, str) and name for name in weights.values()):
        raise CheckpointError(
            f"{Path(folder) / index} has no weight_map of names of tensors to names of files. It is damaged: copy or "
            "download it again."
        )
    if not isinstance(data.get("metadata", {}), dict):
        raise CheckpointError(f"{Path(folder) / index} has metadata that is no object. It is damaged.")
    return sorted(set(weights.values()))


def _check_objects(folder: Path) -> None:
    """Raise if a part of config.json that transformers takes for an object is something else."""
    config = read_json(folder, "config.json")
    parts = {"": config, **({name: config.get(name) for name in OBJECTS} if isinstance(config, dict) else {})}
    for name, part in parts.items():
        if not isinstance(part, dict) and (part is not None or not name):
            raise CheckpointError(
                f"{folder / 'config.json'} {f'has {name} = ' if name else 'holds '}{reprlib.repr(part)}; expected an "
                "object with names and values. It was changed or damaged."
            )


def _entries(folder: Path) -> Iterator[Path]:
    """Yield what a model's folder holds, without folders and hidden files, which nothing opens."""
    for path in sorted(folder.iterdir()):
        if path.name == TEMPLATES and path.is_dir():
            yield from sorted(path.glob("*.jinja"))
        elif not path.name.startswith(".") and not path.is_dir():
            yield path


def _stays_inside(name: str) -> bool:
    parts = Path(name.replace("\\", "/")).parts
    return not Path(name).is_absolute() and ".." not in parts and "\0" not in name


def _named_weights(folder: Path) -> str | None:
    """Return the file of weights that config.json names, if it names one."""
    if not (folder / "config.json").exists():
        return None
    config = read_json(folder, "config.json")
    found = config.get("transformers_weights") if isinstance(config, dict) else None
    found = None if found == GUARD else found
    described: Any = config.get("quantization_config") if isinstance(config, dict) else None
    if isinstance(described, dict) and described.get("quant_method") == METHOD:
        found = described.get("weights") or found
    if found is not None and not isinstance(found, str):
        raise CheckpointError(f"{folder / 'config.json'} names the weight file {found!r}; expected a name.")
    return found or None


def _tokenizer_files(folder: Path) -> list[str]:
    """Return the files that tokenizer_config.json names and that are there."""
    if not (folder / "tokenizer_config.json").exists():
        return []
    config = read_json(folder, "tokenizer_config.json")
    names = config.get("fast_tokenizer_files") if isinstance(config, dict) else None
    return [name for name in names if isinstance(name, str) and (folder / name).exists()] if names else []
