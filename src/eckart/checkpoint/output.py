"""What an output may replace: the one place where that is decided, for folders and for single files.

Only what Eckart wrote is replaced, known by a mark in it, and never what is read, what holds it or what lies in it.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from eckart.checkpoint.mark import changed_files, files_in, known_files
from eckart.data.text import parts_of
from eckart.errors import CheckpointError

UNFINISHED, REPLACED = ".unfinished", ".replaced"  # what is beside a folder while it is made, and while it is replaced
LONGEST = 255  # bytes in a name, where the system does not say
LOOKED_AT = 1 << 24  # bytes of a file, in which its mark must be


@dataclass(frozen=True)
class FileKind:
    """A kind of single file that Eckart writes.

    Attributes:
        name: in words.
        mark: what is in each of them and in no other file.
    """

    name: str
    mark: re.Pattern[bytes]


MAKER = "Eckart"  # what a page and an image say that they were made by
PAGE = FileKind(
    "page of `eckart report`",
    # The second is in pages of before there was the first.
    re.compile(
        rb'\A<!doctype html>\s<html lang="en">\s<head>\s<meta charset="utf-8">'
        rb'\s<meta name="generator" content="Eckart">'
        rb"|<footer><p>Made by <code>eckart report</code>"
    ),
)
IMAGE = FileKind("map that Eckart drew", re.compile(rb"tEXtSoftware\0Eckart|<dc:title>Eckart</dc:title>"))
SWEEP = FileKind("file of a sweep", re.compile(rb"\ASQLite format 3\0.{52}ECKT", re.DOTALL))


def placed(output: str | Path) -> Path:
    """Return an output by the folder that it really lies in.

    ``new/../old`` is ``old``, also while there is no folder ``new``: it must not come to be by being made.
    """
    output = Path(output)
    if ".." not in output.parts[:-1] or output.name in ("", ".."):
        return output
    return Path(os.path.realpath(output.parent)) / output.name


def unfinished_of(output: Path) -> Path:
    """Return the folder beside ``output`` that is worked in until ``output`` is whole."""
    return output.with_name(output.name + UNFINISHED)


def replaced_of(output: Path) -> Path:
    """Return where an older ``output`` is while it is replaced."""
    return output.with_name(f".{output.name}{REPLACED}")


def check_output(
    output: str | Path,
    *,
    overwrite: bool,
    kind: FileKind | None = None,
    reads: Iterable[str | Path | None] = (),
    needed: int = 0,
) -> None:
    """Raise if an output cannot be written, or must not be.

    Args:
        output: the folder or file to write.
        overwrite: whether one that Eckart wrote may be replaced.
        kind: of a single file; None for a folder.
        reads: what is read, as for :func:`check_apart`.
        needed: bytes that will be written.

    Raises:
        CheckpointError: says what is in the way, and what to do.
    """
    output = placed(output)
    check_apart(output, reads, kind=kind)
    with _said(output):
        _check_parent(output, kind)
        if os.path.lexists(output):
            if not overwrite:
                raise CheckpointError(
                    f"The output folder {output} exists. Use another name, or --overwrite to replace it."
                )
            check_replaceable(output, kind)
        check_space(output, needed)


def check_apart(output: str | Path, reads: Iterable[str | Path | None] = (), *, kind: FileKind | None = None) -> None:
    """Raise if an output has no name that can be used, or is, holds or lies in something that is read.

    Args:
        output: the folder or file to write.
        reads: folders and files as paths, texts and recipes by their specifications; those that are not there are left
            out.
        kind: of a single file; None for a folder.

    Raises:
        CheckpointError: says which.
    """
    output = placed(output)
    with _said(output):
        _check_name(output)
        places = [output] if kind else [output, unfinished_of(output), replaced_of(output)]
        above = _identities(output)
        for read in _local_paths(reads):
            whole = _identity(read)
            if whole in above:
                where = "is" if whole == _identity(output) else "lies in"
                raise CheckpointError(f"The output {output} {where} {read}, which is read. Use another output.")
            # Of a folder also what it links to, as a cache of a hub does.
            for part in (read, *(read.iterdir() if read.is_dir() else ())):
                inside = _identities(part)
                for place in places:
                    if _identity(place) in inside:
                        raise CheckpointError(f"{place} holds {part}, which is read. Use another output.")


def check_replaceable(output: Path, kind: FileKind | None = None) -> None:
    """Raise if what is at ``output`` was not written by Eckart, all of it, or cannot be replaced.

    Raises:
        CheckpointError: says what is in the way.
    """
    if output.is_symlink():
        raise CheckpointError(
            f"The output {output} is a link to {os.readlink(output)}. Links are not replaced: name what it links to, "
            "or use another name."
        )
    if kind is not None:
        _check_file(output, kind)
        return
    if not output.is_dir():
        raise CheckpointError(f"The output {output} is a file; expected the name of a folder.")
    others = files_in(output) - (known_files(output) or set())
    if others:
        raise CheckpointError(
            f"The folder {output} holds {min(others)!r}{_more(others)}, which Eckart did not write. Only what Eckart "
            "wrote is replaced: use another name, or move it away."
        )
    if changed := [name for name in changed_files(output) if os.path.lexists(output / name)]:
        raise CheckpointError(
            f"{output / changed[0]} was changed since Eckart wrote it. Only what Eckart wrote is replaced: use another "
            "name, or move it away."
        )
    replaced = replaced_of(output)
    if os.path.lexists(replaced):
        raise CheckpointError(
            f"{replaced} is in the way: what {output} is replaced by is put there first. It is left from a run that "
            "was stopped; move it away, or delete it."
        )
    if not _can_be_moved(output):
        raise CheckpointError(
            f"The folder {output} cannot be replaced: it belongs to another user, is read-only, or is a disk of its "
            "own. Use another name."
        )


def check_space(output: Path, needed: int) -> None:
    """Raise if so many bytes do not fit on the disk of ``output``.

    Raises:
        CheckpointError: says how many are free.
    """
    free = shutil.disk_usage(_nearest(output)).free
    if free < needed:
        raise CheckpointError(
            f"No space for {output}: {needed / 1e6:.0f} MB are needed and {free / 1e6:.0f} MB are free."
        )


def _check_name(output: Path) -> None:
    if output.name in ("", ".."):
        raise CheckpointError(
            f"The output '{output}' has no name of its own. Use the name of a folder or file to make."
        )
    parent = _nearest(output)
    longest = os.pathconf(parent, "PC_NAME_MAX") if hasattr(os, "pathconf") else LONGEST
    room = longest - len(UNFINISHED)
    if len(os.fsencode(output.name)) > room:
        raise CheckpointError(
            f"The name of the output has more than {room} bytes: {output.name[:40]}... Use a shorter one."
        )


def _check_parent(output: Path, kind: FileKind | None) -> None:
    parent = _nearest(output)
    if kind is not None and parent != output.absolute().parent:
        raise CheckpointError(
            f"{output} cannot be written: there is no folder {output.parent}. Choose a file in an existing folder."
        )
    if not parent.is_dir():
        raise CheckpointError(f"The output {output} cannot be made: {parent} is no folder. Use another name.")
    if not os.access(parent, os.W_OK | os.X_OK):
        what = "The output folder" if kind is None else "The output"
        raise CheckpointError(f"{what} {output} cannot be made: {parent} is not writable.")


def _check_file(output: Path, kind: FileKind) -> None:
    if output.is_dir():
        raise CheckpointError(
            f"The output {output} is a folder; expected the name of a file to write. Use another name."
        )
    if not output.is_file():
        raise CheckpointError(f"The output {output} is no ordinary file. Use another name.")
    if not _is_ours_to_move(output):
        raise CheckpointError(f"The file {output} belongs to another user and cannot be replaced. Use another name.")
    with output.open("rb") as file:
        content = file.read(LOOKED_AT)
    if content and not kind.mark.search(content):
        raise CheckpointError(
            f"The file {output} is no {kind.name}. Only what Eckart wrote is replaced: use another name, or delete it."
        )


def _can_be_moved(folder: Path) -> bool:
    inside = [folder, *(Path(name) for name, _, _ in os.walk(folder))]
    may = all(os.access(path, os.R_OK | os.W_OK | os.X_OK) for path in inside)
    return may and not os.path.ismount(folder) and _is_ours_to_move(folder)


def _is_ours_to_move(path: Path) -> bool:
    parent = path.absolute().parent.stat()
    if os.name != "posix" or not parent.st_mode & stat.S_ISVTX:
        return True
    # In a folder such as /tmp only the owner of a thing moves it.
    return os.geteuid() in (0, parent.st_uid, path.stat().st_uid)


def _nearest(output: Path) -> Path:
    """Return the nearest of the folders above an output that there is."""
    return next(path for path in output.absolute().parents if os.path.lexists(path))


def _local_paths(reads: Iterable[str | Path | None]) -> Iterator[Path]:
    """Yield what is there of what is read: paths, and of specifications FILE, FILE:lines and dataset:FOLDER:SPLIT."""
    for read in reads:
        if isinstance(read, Path):
            yield from [read] if read.exists() else _cached(read)
        for part in parts_of(read) if isinstance(read, str) else []:
            if part.startswith("dataset:"):
                yield from [path for path in [Path(part.split(":")[1])] if path.name and path.exists()]
            else:  # a folder of the name of a recipe or of a text is none
                yield from [path for path in map(Path, (part, part.rpartition(":")[0])) if path.is_file()]


def _cached(model: Path) -> list[Path]:
    """Return the folder of a model of a hub, if it is in the cache."""
    try:
        found = try_to_load_from_cache(model.as_posix(), "config.json")
    except HFValidationError:  # no name of a model
        return []
    return [Path(found).parent] if isinstance(found, str) else []


def _identities(path: Path) -> list[tuple[int, int] | None]:
    """Return which folder or file a path is, links followed, and which the folders above it are."""
    real = Path(os.path.realpath(path))
    return [found for one in (real, *real.parents) if (found := _identity(one))]


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what makes a file the same under all its names, upper or lower case too; None if there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _more(names: set[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


@contextmanager
def _said(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"The output {output} cannot be used: {error.strerror or error}. Use another.") from error
