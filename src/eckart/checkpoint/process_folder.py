"""What a process beside the first one keeps of a run: the hidden states of its own samples.

    OUTPUT.unfinished/processes/2-of-8/mark-00005.json   what there is in front of block 5
    OUTPUT.unfinished/processes/2-of-8/streams/          hidden states
    OUTPUT.unfinished/processes/2-of-8/student/          what it trains in a distillation
    OUTPUT.unfinished/processes/2-of-8/profile/          what ranks follow from, measured anew when a run goes on

The first process says how far the run has come. A mark is written before the manifest that the first one writes of the
same block, and an older one is deleted behind it: what a manifest asks for is there, whichever process is killed when.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from torch import Tensor

from eckart import processes
from eckart.blocks.argument_table import ARGUMENTS
from eckart.blocks.block import Block
from eckart.blocks.tensor_cache import ScratchSpace, TensorCache, TensorCacheRecord
from eckart.checkpoint.files import delete_all_but, hash_of, sync, write_text
from eckart.checkpoint.run_folder import PROCESSES
from eckart.compression.drift import FollowedTokens
from eckart.compression.records import Records
from eckart.compression.state import WalkState
from eckart.errors import CheckpointError, DamagedRunError, first_problem

AGAIN = "Start again with --overwrite."
FOLLOWED = "followed"
STREAMS = ("original", "compressed", FOLLOWED)  # of a state
TAP = "tap-"


class ProcessMark(BaseModel):
    """What a process has in front of a block.

    Attributes:
        streams: that the run looks at, by the names of a state; of what others look at later with a prefix.
        files: SHA-256 of their files, by name.
    """

    streams: dict[str, TensorCacheRecord]
    files: dict[str, str]


class ProcessFolder:
    """The folder of a process, and the part of :class:`eckart.compression.state.RunCheckpoint` that it plays.

    Args:
        unfinished: the folder that the run works in.
    """

    def __init__(self, unfinished: Path) -> None:
        self.path = unfinished / PROCESSES / f"{processes.rank()}-of-{processes.size()}"
        self.streams, self.student, self.measurements = (self.path / n for n in ("streams", "student", "profile"))
        self.scratch = ScratchSpace(True, self.streams)

    def begin(self, *, clear: bool) -> None:
        """Make ready for work.

        Args:
            clear: delete what an earlier run left.
        """
        for path in (self.path,) if clear else (self.student, self.measurements):
            shutil.rmtree(path, ignore_errors=True)
        for path in (self.streams, self.student, self.measurements):
            path.mkdir(parents=True, exist_ok=True)

    def close(self) -> None:
        """Delete what a run that is done has left; elsewhere it is not, if processes share no disk."""
        shutil.rmtree(self.path, ignore_errors=True)
        for path in (self.path.parent, self.path.parent.parent):
            with suppress(OSError):
                path.rmdir()

    def resume(self) -> WalkState | None:
        """Return where the run stopped, as the first process says; None if nothing is finished.

        Raises:
            DamagedRunError: what is to be here is not.
        """
        found = processes.give(None)
        if found is None:
            return None
        finished, records = found
        path = self._mark(finished)
        try:
            mark = ProcessMark.model_validate_json(path.read_bytes())
            for name, digest in mark.files.items():
                if hash_of(self.streams / Path(name).name) != digest:
                    raise CheckpointError(f"the SHA-256 of {name} is not that which was written.")
            streams = {name: self._load(record) for name, record in mark.streams.items()}
        except ValidationError as error:
            raise DamagedRunError(f"{path} is no mark of a process ({first_problem(error)}). {AGAIN}") from error
        except (OSError, CheckpointError) as error:
            raise DamagedRunError(f"{self.path} is damaged: {error} {AGAIN}") from error
        followed = streams.get(FOLLOWED)
        return WalkState(
            finished=finished,
            original=streams.get("original"),
            compressed=streams.get("compressed"),
            followed=None if followed is None else FollowedTokens(followed),
            taps={name.removeprefix(TAP): cache for name, cache in streams.items() if name.startswith(TAP)},
            records=Records.model_validate(records),
        )

    def save(self, state: WalkState, block: Block, tensors: dict[str, Tensor]) -> None:
        """Keep the hidden states behind a finished block; the first process keeps the block."""
        self.finish(state)

    def load(self, number: int) -> dict[str, Tensor]:
        """Return the tensors of a finished block, which the first process gives to all."""
        return processes.give_tensors(None)

    def replace(self, number: int, block: Block, tensors: dict[str, Tensor]) -> None:
        """Leave a block to the first process."""

    def finish(self, state: WalkState) -> None:
        """Write the hidden states behind the finished blocks, and the mark of them."""
        found: dict[str, Any] = {name: getattr(state, name) for name in STREAMS}
        found[FOLLOWED] = None if state.followed is None else state.followed.cache
        found |= {f"{TAP}{name}": cache for name, cache in state.taps.items()}
        streams = {
            name: cache.save(cache.path or self.scratch.path(f"{name}-{state.finished:05d}"))
            for name, cache in found.items()
            if cache is not None
        }
        sync(self.streams)
        kept = {record.file for record in streams.values()}
        mark = ProcessMark(streams=streams, files={file: hash_of(self.streams / file) for file in sorted(kept)})
        write_text(self._mark(state.finished), mark.model_dump_json(indent=1) + "\n")
        processes.wait()  # until all have come so far
        processes.wait()  # until the manifest is written
        used = {path.name for path in self.streams.iterdir() if path.name.startswith(f"{ARGUMENTS}-")}
        delete_all_but(self.streams, kept | used)
        for path in self.path.glob("mark-*"):
            if path != self._mark(state.finished):
                path.unlink()

    def _load(self, record: TensorCacheRecord) -> TensorCache:
        return TensorCache.load(record, self.streams, in_memory=self.scratch.in_memory)

    def _mark(self, finished: int) -> Path:
        return self.path / f"mark-{finished:05d}.json"
