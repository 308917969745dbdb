"""The folder beside an output in which it is made, and the change of names at the end.

    OUTPUT.unfinished/eckart.json     the mark of such a folder, and how far the change of names has come
    OUTPUT.unfinished/manifest.json   what is finished, and of which run
    OUTPUT.unfinished/streams/        hidden states in front of the next block
    OUTPUT.unfinished/spectra/        of the layers of finished blocks
    OUTPUT.unfinished/student/        the finished blocks, if all will be distilled
    OUTPUT.unfinished/profile/        what ranks follow from, measured anew when a run goes on
    OUTPUT.unfinished/processes/      what processes beside the first keep, each in a folder of its own
    OUTPUT.unfinished/model/          becomes OUTPUT when all is done
    .OUTPUT.replaced                  the older OUTPUT, from then until the new one has its name

An older output is whole under one of its two names until the new one is under its own. Whoever opens the folder next
finds out from the mark what a killed process left, and puts it right.
"""

from __future__ import annotations

import os
import shutil
import stat
import warnings
from collections.abc import Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout
from pydantic import BaseModel

from eckart.checkpoint.files import sync, write_text
from eckart.checkpoint.mark import LIST_NAME, UNLISTED, delete_known, files_in, known_files, read_small, write_list
from eckart.checkpoint.origin import LICENCES
from eckart.checkpoint.output import check_apart, check_replaceable, placed, replaced_of, unfinished_of
from eckart.checkpoint.packed import STANDARD_NAME
from eckart.errors import CheckpointError, EckartWarning

MARK, LOCK = "eckart.json", "lock"
BARE = (MARK, "eckart.partial", LOCK)  # what there may be before the mark is
SCRATCH = ("profile", "offload", "converting")  # of no use to a later run
PROCESSES = "processes"
WORK = ("manifest.json", "manifest.partial", "model", "streams", "spectra", "student", PROCESSES)
CONVERTED = "converted-*"
BESIDE = ("*_config.json", "config_*.json", "modules.json", "1_Pooling/config.json")  # of processors
EXPORTED = ("export.json", "*.onnx", "*.onnx.data", "*.xml", "*.bin", "*.pte", "*.gguf")
HELD = {  # what a run writes into its folders
    "streams": ("*.spool",),
    "spectra": ("block-*.safetensors", "block-*.partial"),
    "student": ("block-*", "student-*", "entry.spool"),
    PROCESSES: ("*-of-*/*/*.spool", "*-of-*/student/*", "*-of-*/mark-*.json", "*-of-*/mark-*.partial"),
    "model": (
        *(*UNLISTED, LIST_NAME, "model*.safetensors*", "model*.partial", "config.partial", STANDARD_NAME),
        *("eckart*.partial", "eckart/*.partial", "*.py", *LICENCES, *BESIDE, *EXPORTED),
    ),
}
MARK_BEGINS = b'{\n "version": 1,'
MOVE = "Move it away, or use another output."


class RunMark(BaseModel):
    """The mark of a folder that is worked in.

    Attributes:
        overwrite: whether the run was told that it may replace the output.
        state: ``publishing`` from before the first name is changed, ``published`` from behind the last.
        needless: files that the output is whole without, and that are deleted when it has its name. Until then a run
            could still go on with them.
    """

    version: Literal[1] = 1
    overwrite: bool = False
    state: Literal["working", "publishing", "published"] = "working"
    needless: list[str] = []


class _Unmarked(BaseModel):
    """What tells the manifest of a folder that was made before there were marks."""

    identity: dict[str, Any]
    finished: int


class RunFolder:
    """The folder beside the output in which a run works, and a lock on it.

    Args:
        output: the folder that is to be made.

    Raises:
        CheckpointError: it has no name that can be used.
    """

    def __init__(self, output: Path) -> None:
        check_apart(output)
        self.output = output = placed(output)
        self.path = unfinished_of(output)
        self.replaced = replaced_of(output)
        self.manifest = self.path / "manifest.json"
        self.model = self.path / "model"
        self.streams = self.path / "streams"
        self.spectra = self.path / "spectra"
        self.student = self.path / "student"
        self.measurements = self.path / "profile"
        self.offload = self.path / "offload"
        self.begun = False  # whether this process has changed what a later run could go on with
        self._before: RunMark | None = None  # the mark when it was opened
        self._made: list[Path] = []  # folders, by this process
        self._lock = FileLock(self.path / LOCK, blocking=False)

    def mark(self) -> RunMark | None:
        """Return the mark of the folder; None if there is none yet, or nothing in it.

        Raises:
            CheckpointError: the folder, or something in it, is not Eckart's.
        """
        try:
            return self._read_mark()
        except OSError as error:
            raise CheckpointError(f"{self.path} cannot be read: {error.strerror or error}. {MOVE}") from error

    def _read_mark(self) -> RunMark | None:
        if not os.path.lexists(self.path):
            return None
        if self.path.is_symlink() or not self.path.is_dir():
            raise CheckpointError(f"{self.path} is a link or a file; a run works in a folder there. {MOVE}")
        names = {path.name for path in self.path.iterdir()}
        others = [name for name in names if name not in (*BARE, *SCRATCH, *WORK) and not fnmatchcase(name, CONVERTED)]
        others += [name for name in files_in(self.path) if not self._may_be_ours(name)]
        if others:
            raise CheckpointError(f"{self.path} holds {min(others)!r}, which Eckart did not write. {MOVE}")
        if MARK not in names and names <= {*BARE}:
            return None
        found = read_small(self.path / MARK, RunMark)
        if MARK not in names and read_small(self.manifest, _Unmarked):
            found = RunMark(state="publishing")
        if found is None:
            raise CheckpointError(f"{self.path} is no folder that Eckart works in: it has no {MARK} of it. {MOVE}")
        return found

    def _may_be_ours(self, name: str) -> bool:
        """Return whether a file in the folder, by its way from it, can be one that a run wrote.

        Links, pipes and files that have another name elsewhere never are: what is written into them goes elsewhere.
        """
        found = (self.path / name).lstat()
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            return False
        place, _, rest = name.partition("/")
        if place == LOCK:
            return found.st_size == 0
        if name == BARE[1]:
            return (self.path / name).read_bytes()[: len(MARK_BEGINS)] in (MARK_BEGINS[:n] for n in range(20))
        return place not in HELD or any(fnmatchcase(rest, pattern) for pattern in HELD[place])

    @property
    def published(self) -> bool:
        """Whether the output has its name already, and the rest is to be deleted."""
        # Once it works here, what is in the folder is this process's own.
        mark = read_small(self.path / MARK, RunMark) if self.begun else self.mark()
        if mark is None:
            return False
        return mark.state == "published" or (mark.state == "publishing" and not self.model.exists())

    def recover(self) -> None:
        """Put right what a process left that was killed while it changed names.

        Raises:
            CheckpointError: another process works in the folder, or it is not Eckart's.
        """
        if os.path.lexists(self.replaced) or self.published:
            self.open()
            self.close()

    def open(self, *, overwrite: bool = False) -> None:
        """Make the folder if it is not there, and keep other processes out of it. What it holds stays as it is.

        Args:
            overwrite: whether the output may be replaced; noted down at once for a run that goes on with this one.

        Raises:
            CheckpointError: another process works in it, it is not Eckart's, or it cannot be made.
        """
        self.mark()  # before there is a lock in a folder that is not Eckart's
        self._made = [path for path in (self.path, *self.path.parents) if not os.path.lexists(path)]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout as error:
            raise CheckpointError(f"Another process is at work in {self.path}. Wait for it, or stop it.") from error
        except OSError as error:
            self._delete_empty()
            raise CheckpointError(
                f"{self.path} cannot be made: {error.strerror or error}. Use another output."
            ) from error
        try:
            self.begun, self._before = False, self.mark()
            known = self._before or RunMark()
            if self._before is None or overwrite > known.overwrite:
                self._write(known.model_copy(update={"overwrite": overwrite}))
            self._put_right()
            self._delete(*SCRATCH)
        except OSError as error:
            self.close()
            raise CheckpointError(f"{self.path} cannot be used: {error.strerror or error}. {MOVE}") from error
        except BaseException:
            self.close()
            raise

    def begin(self, *, clear: bool, overwrite: bool) -> None:
        """Make ready for work; before this, nothing is changed that a later run could go on with.

        Args:
            clear: delete what an earlier run finished.
            overwrite: whether the output may be replaced.
        """
        self.begun = True
        self._write(RunMark(overwrite=overwrite))
        if clear:
            self._delete(*WORK)  # the manifest first, so that nobody takes what is left for more than it is
        for path in (self.model, self.streams, self.spectra, self.student, self.measurements):
            path.mkdir(exist_ok=True)

    def publish(self, needless: Sequence[str] = ()) -> None:
        """Turn the finished model into the output; an older one is deleted when the new one has its name.

        Args:
            needless: names of files of the model that are not part of the output.

        Raises:
            CheckpointError: there is something in the way which Eckart did not write.
        """
        write_list(self.model, without=needless)
        for path in self.model.rglob("*"):
            sync(path)
        sync(self.model)
        known = (read_small(self.path / MARK, RunMark) or RunMark()).model_copy(update={"needless": list(needless)})
        if os.path.lexists(self.output):
            if not known.overwrite:
                raise CheckpointError(
                    f"{self.output} has come to be since the start. Add --overwrite to replace it, if Eckart wrote it."
                )
            check_replaceable(self.output)
        self._write(known.model_copy(update={"state": "publishing"}))
        if os.path.lexists(self.output):
            os.rename(self.output, self.replaced)
        os.rename(self.model, self.output)
        self._delete_needless(known)
        with suppress(OSError):  # all is done, and that the model is gone says so too
            sync(self.output.parent)
            self._write(known.model_copy(update={"state": "published"}))
        self._delete_replaced()

    def close(self) -> None:
        """Let others in; delete the folder if nothing in it is of use to a later run."""
        try:
            self._put_right()
            self._delete(*SCRATCH)
            useful = self.manifest.exists() if self.begun else self._before is not None
            if useful and not self.begun and self._before and self._before != self.mark():
                self._write(self._before)
            if not useful or self.published:
                self._delete(*WORK, *(path.name for path in self.path.glob(CONVERTED)), "eckart.partial", MARK)
        except (OSError, CheckpointError):
            pass  # what is left is found by the next one who opens the folder
        finally:
            self._unlock()

    def _put_right(self) -> None:
        """Finish a change of names that was begun, or take it back."""
        if self.published:
            self._delete_needless(read_small(self.path / MARK, RunMark) or RunMark())
            self._delete_replaced()
            self._delete(*WORK)
        elif os.path.lexists(self.replaced) and not os.path.lexists(self.output):
            if known_files(self.replaced) is None and files_in(self.replaced):
                return  # whatever it is, it was not put there by a run
            os.rename(self.replaced, self.output)
            sync(self.output.parent)

    def _delete_needless(self, mark: RunMark) -> None:
        if mark.state == "published":
            return  # they were deleted before this was written; what has their names now is something else
        for name in mark.needless:
            (self.output / Path(name).name).unlink(missing_ok=True)

    def _delete_replaced(self) -> None:
        if not os.path.lexists(self.replaced):
            return
        reason = "it holds something that Eckart did not write"
        try:
            delete_known(self.replaced)
        except OSError as error:
            reason = error.strerror or str(error)
        if os.path.lexists(self.replaced):
            warnings.warn(
                f"What {self.output} was before is still in {self.replaced}: {reason}. Move it away, or delete it.",
                EckartWarning,
                stacklevel=3,
            )

    def _write(self, mark: RunMark) -> None:
        write_text(self.path / MARK, mark.model_dump_json(indent=1) + "\n")

    def _delete(self, *names: str) -> None:
        for name in names:
            path = self.path / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def _unlock(self) -> None:
        lock = self.path / LOCK
        with suppress(OSError):
            if {path.name for path in self.path.iterdir()} == {LOCK}:
                try:
                    lock.unlink()  # while it is held, so that nobody comes to hold a file without a name
                except OSError:  # not everywhere can a file be deleted that is open
                    self._lock.release()
                    lock.unlink()
        self._lock.release()
        self._delete_empty()

    def _delete_empty(self) -> None:
        """Delete the folders that were made here, or worked in, as far as they are empty."""
        for path in dict.fromkeys([*([self.path] if self.begun or self._before else []), *self._made]):
            with suppress(OSError):
                path.rmdir()
