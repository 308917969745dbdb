"""The folder of a run that is not finished: its blocks so far, its streams, and a manifest of both.

After each block its shard, the streams behind it and the manifest are on the disk, in this order. A run that is killed
at any moment goes on from its last manifest, and then writes the same bytes as one that was not.

    OUTPUT.unfinished/manifest.json   what is finished, and of which run
    OUTPUT.unfinished/streams/        hidden states in front of the next block
    OUTPUT.unfinished/spectra/        of the layers of finished blocks
    OUTPUT.unfinished/student/        the finished blocks, if all will be distilled
    OUTPUT.unfinished/profile/        what ranks follow from, measured anew when a run goes on
    OUTPUT.unfinished/model/          becomes OUTPUT when all is done
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from eckart.blocks import Block
from eckart.checkpoint.files import PREFIX, delete_all_but, sync, write_shard, write_text
from eckart.checkpoint.identity import differences
from eckart.distillation.record import DistillationRecord
from eckart.errors import CheckpointError, first_problem
from eckart.names import JSON_LIMIT, file_inside
from eckart.position import Position
from eckart.records import BlockRecord
from eckart.refinement.record import RefinementRecord
from eckart.report import LayerRecord
from eckart.spool import Spool, SpoolRecord, Workspace

SUFFIX = ".unfinished"
STREAMS = ("original", "compressed", "recorded")  # of a position


class Manifest(BaseModel):
    """What is on the disk of an unfinished run.

    Attributes:
        identity: of the run.
        finished: blocks whose shards are written.
        layers: records of their layers.
        refinements: records of their refinements.
        original: the original model's stream behind them, if the run keeps one.
        compressed: the compressed model's.
        recorded: the hidden states that errors are recorded on.
        blocks: those errors.
        distillation: what it did; None if it is not over.
    """

    identity: dict[str, Any]
    finished: int
    layers: list[LayerRecord]
    refinements: list[RefinementRecord]
    original: SpoolRecord | None
    compressed: SpoolRecord | None
    recorded: SpoolRecord | None
    blocks: list[BlockRecord]
    distillation: DistillationRecord | None = None


class RunFolder:
    """The folder beside the output in which a run works, and a lock on it.

    Args:
        output: the folder that is to be made.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self.path = output.with_name(output.name + SUFFIX)
        self.manifest = self.path / "manifest.json"
        self.model = self.path / "model"
        self.streams = self.path / "streams"
        self.spectra = self.path / "spectra"
        self.student = self.path / "student"
        self.profile = self.path / "profile"
        self.offload = self.path / "offload"
        self.converted = self.path / "converted"
        self._lock = FileLock(self.path / "lock", blocking=False)

    def open(self, *, clear: bool) -> None:
        """Make the folder, and keep other processes out of it.

        Args:
            clear: delete what is in it.

        Raises:
            CheckpointError: another process works in it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire()
        except Timeout as error:
            raise CheckpointError(f"Another process is at work in {self.path}. Wait for it, or stop it.") from error
        except OSError as error:  # no regular file, or one that may not be opened
            raise CheckpointError(f"{self.path / 'lock'} cannot be locked: {error.strerror}. Delete it.") from error
        if clear:
            self.forget()  # first, so that nobody takes what is left for more than it is
            for path in (self.model, self.streams, self.spectra, self.student):
                shutil.rmtree(path, ignore_errors=True)
        shutil.rmtree(self.profile, ignore_errors=True)  # measured anew by every run
        for path in (self.model, self.streams, self.spectra, self.student, self.profile):
            path.mkdir(exist_ok=True)

    def close(self) -> None:
        """Let others in; delete the folder if nothing in it is finished."""
        if not self.manifest.exists():
            shutil.rmtree(self.path, ignore_errors=True)
        self._lock.release()

    def publish(self) -> None:
        """Turn the finished model into the output, and mark the rest for deletion."""
        for path in self.model.rglob("*"):
            sync(path)
        sync(self.model)
        if self.output.exists():
            self.output.rename(self.path / "replaced")
        self.model.rename(self.output)
        sync(self.output.parent)
        self.forget()

    def forget(self) -> None:
        """Take it that nothing in the folder is worth keeping."""
        self.manifest.unlink(missing_ok=True)


class DiskJournal:
    """Keeps finished blocks in a :class:`RunFolder`.

    Args:
        folder: open.
        identity: of the run.
        model: whose blocks they are.
        workspace: where the streams live; its folder is that of the run.
        distils: whether the finished blocks will be wanted again.
    """

    def __init__(
        self,
        folder: RunFolder,
        identity: dict[str, Any],
        model: PreTrainedModel,
        workspace: Workspace,
        *,
        distils: bool = False,
    ) -> None:
        self.distils = distils
        self.folder = folder
        self.identity = identity
        self.model = model
        self.workspace = workspace

    def resume(self) -> Position | None:
        """Return where the run stopped; None if nothing is finished.

        Raises:
            CheckpointError: the folder is of another run, or it is damaged.
        """
        manifest = read_manifest(self.folder)
        if manifest is None:
            return None
        check_same_run(manifest.identity, self.identity, self.folder.path)
        try:
            streams = [self._load(getattr(manifest, name)) for name in STREAMS]
            spectra: dict[str, Tensor] = {}
            for number in range(manifest.finished):
                spectra |= load_file(_own(self._spectra(number)))
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{self.folder.path} is damaged: {error}. Start again with --overwrite.") from error
        for number in range(manifest.finished):
            _own(self._shard(number))
        return Position(
            finished=manifest.finished,
            layers=tuple(manifest.layers),
            refinements=tuple(manifest.refinements),
            blocks=tuple(manifest.blocks),
            spectra=spectra,
            distillation=manifest.distillation,
            **dict(zip(STREAMS, streams, strict=True)),
        )

    def keep(self, position: Position, block: Block, tensors: dict[str, Tensor]) -> None:
        """Write a finished block, the streams behind it and the manifest; see :meth:`eckart.walk.Journal.keep`."""
        number = position.finished - 1
        self.replace(number, block, tensors)
        if self.distils:
            write_shard(self._student(number), tensors)
        inside = {target.path for target in block.targets} & position.spectra.keys()
        write_shard(self._spectra(number), {path: position.spectra[path] for path in sorted(inside)})
        self.finish(position)

    def kept(self, number: int) -> dict[str, Tensor]:
        """Return the tensors of a finished block as they were kept first.

        Raises:
            CheckpointError: its file is gone or damaged.
        """
        try:
            return load_file(_own(self._student(number)))
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{self.folder.path} is damaged: {error}. Start again with --overwrite.") from error

    def replace(self, number: int, block: Block, tensors: dict[str, Tensor]) -> None:
        """Write the shard of a block."""
        named = {f"{block.path}.{name}": tensor for name, tensor in tensors.items()}
        write_shard(self._shard(number), revert_weight_conversion(self.model, named))

    def finish(self, position: Position) -> None:
        """Write the streams behind the finished blocks, and the manifest."""
        records = {name: self._save(name, position) for name in STREAMS}
        sync(self.folder.streams)
        manifest = Manifest(
            identity=self.identity,
            finished=position.finished,
            layers=list(position.layers),
            refinements=list(position.refinements),
            blocks=list(position.blocks),
            distillation=position.distillation,
            **records,
        )
        write_text(self.folder.manifest, manifest.model_dump_json(indent=1) + "\n")
        delete_all_but(self.folder.streams, [record.file for record in records.values() if record])

    def _save(self, name: str, position: Position) -> SpoolRecord | None:
        stream: Spool | None = getattr(position, name)
        return None if stream is None else stream.save(self.workspace.path(f"{name}-{position.finished:05d}"))

    def _load(self, record: SpoolRecord | None) -> Spool | None:
        if record is None:
            return None
        return Spool.load(record, self.folder.streams, in_memory=self.workspace.in_memory)

    def _shard(self, number: int) -> Path:
        return self.folder.model / f"{PREFIX}block-{number:05d}.safetensors"

    def _student(self, number: int) -> Path:
        return self.folder.student / f"block-{number:05d}.safetensors"

    def _spectra(self, number: int) -> Path:
        return self.folder.spectra / f"block-{number:05d}.safetensors"


def _own(path: Path) -> Path:
    """Return the path of a finished block's file if it may be opened; the folder may be handed over by somebody."""
    if not os.path.lexists(path):
        raise CheckpointError(f"{path} is gone. Start again with --overwrite.")
    try:
        return file_inside(path.parent, path.name)
    except CheckpointError as error:
        raise CheckpointError(f"{error} Start again with --overwrite.") from error


def read_manifest(folder: RunFolder) -> Manifest | None:
    """Return the manifest of an unfinished run, or None if there is none.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        if not os.path.lexists(folder.manifest):
            return None
        path = file_inside(folder.path, folder.manifest.name, limit=JSON_LIMIT)
        return Manifest.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        problem = first_problem(error) if isinstance(error, ValidationError) else str(error)
        raise CheckpointError(
            f"{folder.manifest} is no manifest of an unfinished run ({problem}). Start again with --overwrite."
        ) from error


def check_same_run(before: dict[str, Any], now: dict[str, Any], place: Path) -> None:
    """Raise if ``place`` is of another run than the one that is asked for, and name what is different."""
    found = differences(before, now)
    if found:
        raise CheckpointError(
            f"{place} is of another run: {'; '.join(found)}. Ask for the same as before, use another output, "
            "or start again with --overwrite."
        )
