"""Weight files under names that only this library looks for, written so that they are whole or not there."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

PREFIX = "eckart-"
PART = f"{PREFIX}part-"  # of files of a size that was asked for
INDEX_NAME = "eckart.safetensors.index.json"
FOLDERS_ARE_SYNCED = os.name == "posix"  # elsewhere they cannot be opened, and need not be


def write_shard(path: Path, tensors: dict[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors into a safetensors file, by name; it appears under its name when it is whole and on the disk.

    Args:
        path: of the file.
        tensors: by name.
        metadata: of the file, one entry, since several are written in any order; by default what the format is.
    """
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata=dict(metadata or {"format": "pt"}))
    _let_others_read(partial)
    put_in_place(partial, path)


def write_text(path: Path, text: str) -> None:
    """Write a text file; it appears under its name when it is whole and on the disk."""
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    put_in_place(partial, path)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file into a folder of other people's; it appears under its name when it is whole and on the disk."""
    descriptor, name = tempfile.mkstemp(prefix=".eckart-", dir=path.parent)
    partial = Path(name)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
        _let_others_read(partial)
        put_in_place(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def put_in_place(partial: Path, path: Path) -> None:
    """Give a file its name, in the place of one that has it, once its bytes are on the disk."""
    sync(partial)
    os.replace(partial, path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    folder = path.is_dir()
    if folder and not FOLDERS_ARE_SYNCED:
        return
    try:
        # Some systems take this for writing, and want a handle that may write.
        descriptor = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
    except PermissionError:
        descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def hash_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_index(folder: Path, files: str = f"{PREFIX}*.safetensors", name: str = INDEX_NAME) -> None:
    """Write the index of the weight files in ``folder``, those of a pattern: which tensor is in which."""
    weight_map: dict[str, str] = {}
    size = 0
    for path in sorted(folder.glob(files)):
        with safe_open(path, framework="pt") as shard:
            weight_map.update(dict.fromkeys(shard.keys(), path.name))
        size += path.stat().st_size
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    write_text(folder / name, json.dumps(index, indent=1, sort_keys=True) + "\n")


def repack(folder: Path, size: int) -> None:
    """Write the tensors of our weight files once more, into files of at most ``size`` bytes (:data:`PART`).

    The files that they come from stay. A tensor that is larger has a file of its own.
    """
    number, parcel, taken = 0, dict[str, Tensor](), 0

    def write() -> None:
        write_shard(folder / f"{PART}{number:05d}.safetensors", parcel)

    for path in sorted(folder.glob(f"{PREFIX}*.safetensors")):
        with safe_open(path, framework="pt") as shard:
            for name in shard.offset_keys():
                tensor = shard.get_tensor(name)
                if parcel and taken + tensor.nbytes > size:
                    write()
                    number, parcel, taken = number + 1, {}, 0
                parcel[name] = tensor
                taken += tensor.nbytes
    write()


def rename_shards(folder: Path) -> None:
    """Give the weight files that transformers wrote names that only this library finds, and an index in any case."""
    shards = sorted(folder.glob("model*.safetensors"))
    for number, shard in enumerate(shards, start=1):
        renamed = folder / f"{PREFIX}{number:05d}-of-{len(shards):05d}.safetensors"
        os.replace(shard, renamed)
        _let_others_read(renamed)
    (folder / "model.safetensors.index.json").unlink(missing_ok=True)
    write_index(folder)


def delete_all_but(folder: Path, names: Iterable[str]) -> None:
    """Delete the files in ``folder`` that are not called one of ``names``."""
    wanted = set(names)
    for path in folder.iterdir():
        if path.name not in wanted:
            path.unlink()


def _let_others_read(path: Path) -> None:
    # Some versions of safetensors write files that only their owner can read.
    if os.name == "posix":
        mask = os.umask(0)
        os.umask(mask)
        path.chmod((stat.S_IRUSR | stat.S_IWUSR | stat.S_IRGRP | stat.S_IWGRP | stat.S_IROTH | stat.S_IWOTH) & ~mask)
