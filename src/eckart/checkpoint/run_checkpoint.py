"""The finished blocks of a run in its folder, and the manifest of them.

After each block its shard, the hidden states behind it and the manifest are on the disk, in this order. A run that is
killed at any moment goes on from its last manifest, and then writes the same bytes as one that was not.

Of several processes the first one keeps all but the others' hidden states (:mod:`eckart.checkpoint.process_folder`). It
writes the manifest when these are on the disk, and they delete older ones when it is written.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from eckart import processes
from eckart.blocks.argument_table import ARGUMENTS
from eckart.blocks.block import Block
from eckart.blocks.tensor_cache import ScratchSpace, TensorCache, TensorCacheRecord
from eckart.checkpoint.files import PREFIX, delete_all_but, hash_of, sync, write_shard, write_text
from eckart.checkpoint.identity import differences
from eckart.checkpoint.mark import files_in
from eckart.checkpoint.run_folder import RunFolder
from eckart.compression.drift import FollowedTokens
from eckart.compression.records import Records
from eckart.compression.state import WalkState
from eckart.errors import CheckpointError, DamagedRunError, first_problem
from eckart.files.names import JSON_LIMIT, file_inside

if TYPE_CHECKING:
    from transformers import PreTrainedModel

AGAIN = "Start again with --overwrite."
STREAMS = ("original", "compressed", "followed")  # of a state
TAP = "tap"


class Manifest(BaseModel):
    """What is on the disk of an unfinished run.

    Attributes:
        identity: of the run.
        files: SHA-256 of the files of finished blocks, and of the hidden states behind them, as ``folder/file``.
        finished: blocks whose shards are written.
        original: the original model's hidden states behind them, if the run keeps them.
        compressed: the compressed model's.
        followed: those that errors are recorded on, of both.
        taps: those that the model's own code looks at later, by the names of the state.
        records: of the blocks.
    """

    identity: dict[str, Any]
    files: dict[str, str]
    finished: int
    original: TensorCacheRecord | None
    compressed: TensorCacheRecord | None
    followed: TensorCacheRecord | None
    taps: dict[str, TensorCacheRecord] = {}
    records: Records


class DiskRunCheckpoint:
    """Keeps finished blocks in a :class:`RunFolder`.

    Args:
        folder: open, and begun.
        identity: of the run.
        model: whose blocks they are.
        scratch: where hidden states live; its folder is that of the run.
        distils: whether the finished blocks will be wanted again.
    """

    def __init__(
        self,
        folder: RunFolder,
        identity: dict[str, Any],
        model: PreTrainedModel,
        scratch: ScratchSpace,
        *,
        distils: bool = False,
    ) -> None:
        self.distils = distils
        self.folder = folder
        self.identity = identity
        self.model = model
        self.scratch = scratch
        self._hashes: dict[str, str] = {}  # of what is written, by this process or by an earlier one

    def resume(self) -> WalkState | None:
        """Return where the run stopped; None if nothing is finished.

        Raises:
            CheckpointError: the folder is of another run, or it is damaged.
        """
        state = self._resume()
        processes.give(None if state is None else [state.finished, state.records.model_dump(mode="json")])
        return state

    def _resume(self) -> WalkState | None:
        manifest = read_manifest(self.folder)
        if manifest is None:
            return None
        check_same_run(manifest.identity, self.identity, self.folder.path)
        streams: list[Path] = []
        for name in STREAMS:
            record: TensorCacheRecord | None = getattr(manifest, name)
            path = self._stream(name, manifest.finished)
            if record is not None and record.file != path.name:
                raise DamagedRunError(
                    f"{self.folder.manifest} names {record.file!r} where {path.name!r} belongs. {AGAIN}"
                )
            streams += [path] if record else []
        for record in manifest.taps.values():
            if Path(record.file).name != record.file:
                raise DamagedRunError(f"{self.folder.manifest} names {record.file!r}, which is no file. {AGAIN}")
            streams.append(self.folder.streams / record.file)
        streams = list(dict.fromkeys(streams))
        self._hashes = dict(manifest.files)
        self._check(streams)
        # A distillation that is not over takes the student's files and writes all shards anew.
        self._check(
            self._files(manifest.finished, shards=not self.distils or manifest.records.distillation is not None)
        )
        for path in streams:
            del self._hashes[self._name(path)]
        try:
            loaded = {name: self._load(getattr(manifest, name)) for name in STREAMS}
            taps = {name: found for name, record in manifest.taps.items() if (found := self._load(record)) is not None}
            spectra: dict[str, Tensor] = {}
            for number in range(manifest.finished):
                spectra |= load_file(self._spectra(number))
        except (OSError, SafetensorError, CheckpointError) as error:
            raise DamagedRunError(f"{self.folder.path} is damaged: {error}. {AGAIN}") from error
        shards = {self._shard(number).name for number in range(manifest.finished)}
        for name in files_in(self.folder.model) - shards:  # of an end that was not reached
            (self.folder.model / name).unlink()
        followed = loaded.pop("followed")
        return WalkState(
            finished=manifest.finished,
            followed=None if followed is None else FollowedTokens(followed),
            taps=taps,
            records=manifest.records.model_copy(update={"spectra": spectra}),
            **loaded,
        )

    def save(self, state: WalkState, block: Block, tensors: dict[str, Tensor]) -> None:
        """Write a finished block, the hidden states behind it and the manifest, as the protocol has it."""
        number = state.finished - 1
        self.replace(number, block, tensors)
        if self.distils:
            self._write(self._student(number), tensors)
        inside = {ref.path for ref in block.linears} & state.records.spectra.keys()
        self._write(self._spectra(number), {path: state.records.spectra[path] for path in sorted(inside)})
        self.finish(state)

    def load(self, number: int) -> dict[str, Tensor]:
        """Return the tensors of a finished block as they were kept first.

        Raises:
            CheckpointError: its file is gone or damaged.
        """
        try:
            return processes.give_tensors(load_file(self._student(number)))
        except (OSError, SafetensorError) as error:
            raise DamagedRunError(f"{self.folder.path} is damaged: {error}. {AGAIN}") from error

    def check(self, finished: int) -> None:
        """Read all finished shards once more.

        Raises:
            DamagedRunError: one of them is not as it was written.
        """
        self._check(map(self._shard, range(finished)))

    def replace(self, number: int, block: Block, tensors: dict[str, Tensor]) -> None:
        """Write the shard of a block."""
        self._write(self._shard(number), {block.inside(name): tensor for name, tensor in tensors.items()})

    def finish(self, state: WalkState) -> None:
        """Write the hidden states behind the finished blocks, and the manifest."""
        records = {name: self._save(name, state) for name in STREAMS}
        taps = {name: tap.save(tap.path or self.scratch.path(f"{TAP}-{name}")) for name, tap in state.taps.items()}
        sync(self.folder.streams)
        kept = {record.file for record in (*records.values(), *taps.values()) if record}
        streams = [self.folder.streams / file for file in sorted(kept)]
        manifest = Manifest(
            identity=self.identity,
            files=self._hashes | {self._name(path): hash_of(path) for path in streams},
            finished=state.finished,
            taps=taps,
            records=state.records,
            **records,
        )
        processes.wait()  # for the hidden states of the others
        write_text(self.folder.manifest, manifest.model_dump_json(indent=1) + "\n")
        processes.wait()  # before anything that an older manifest names is deleted
        # How blocks are called is found out again by whoever goes on; until then it is in use.
        used = {path.name for path in self.folder.streams.iterdir() if path.name.startswith(f"{ARGUMENTS}-")}
        delete_all_but(self.folder.streams, kept | used)

    def _save(self, name: str, state: WalkState) -> TensorCacheRecord | None:
        found: TensorCache | FollowedTokens | None = getattr(state, name)
        stream = found.cache if isinstance(found, FollowedTokens) else found
        return None if stream is None else stream.save(self._stream(name, state.finished))

    def _load(self, record: TensorCacheRecord | None) -> TensorCache | None:
        if record is None:
            return None
        return TensorCache.load(record, self.folder.streams, in_memory=self.scratch.in_memory)

    def _write(self, path: Path, tensors: dict[str, Tensor]) -> None:
        write_shard(path, tensors)
        self._hashes[self._name(path)] = hash_of(path)

    def _check(self, paths: Iterable[Path]) -> None:
        for path in paths:
            try:
                if not path.is_file():
                    raise DamagedRunError(f"{path} is gone. {AGAIN}")
                found = hash_of(path)
            except OSError as error:
                raise DamagedRunError(f"{path} cannot be read: {error.strerror or error}. {AGAIN}") from error
            if found != self._hashes.get(self._name(path)):
                raise DamagedRunError(f"{path} is damaged: its SHA-256 is not that which was written. {AGAIN}")

    def _files(self, finished: int, shards: bool) -> Iterator[Path]:
        """Yield the files of finished blocks."""
        for number in range(finished):
            yield self._spectra(number)
            if shards:
                yield self._shard(number)
            if self.distils:
                yield self._student(number)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder.path).as_posix()

    def _stream(self, name: str, finished: int) -> Path:
        return self.scratch.path(f"{name}-{finished:05d}")

    def _shard(self, number: int) -> Path:
        return self.folder.model / f"{PREFIX}block-{number:05d}.safetensors"

    def _student(self, number: int) -> Path:
        return self.folder.student / f"block-{number:05d}.safetensors"

    def _spectra(self, number: int) -> Path:
        return self.folder.spectra / f"block-{number:05d}.safetensors"


def read_manifest(folder: RunFolder) -> Manifest | None:
    """Return the manifest of an unfinished run, or None if there is none.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        if not os.path.lexists(folder.manifest):
            return None
        path = file_inside(folder.path, folder.manifest.name, limit=JSON_LIMIT)
        return Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        older = [problem["loc"] for problem in error.errors()] == [("files",)]
        problem = "it is of an earlier version, without hashes of the files" if older else first_problem(error)
        raise DamagedRunError(f"{folder.manifest} is no manifest of an unfinished run ({problem}). {AGAIN}") from error


def check_same_run(before: dict[str, Any], now: dict[str, Any], place: Path) -> None:
    """Raise if ``place`` is of another run than the one that is asked for, and name what is different."""
    found = differences(before, now)
    if found:
        raise CheckpointError(
            f"{place} is of another run: {'; '.join(found)}. Ask for the same as before, use another output, "
            "or start again with --overwrite."
        )
