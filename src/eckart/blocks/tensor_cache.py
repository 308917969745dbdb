"""Lists of tensors that can be larger than memory: hidden states between blocks, inputs of linears.

A cache is written once, from front to back, and read at random. Its tensors lie in memory, or one after another in a
file of which only the part that is being read is mapped.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from eckart.errors import CheckpointError
from eckart.files.field_types import Count
from eckart.files.names import file_inside


class TensorCacheRecord(BaseModel):
    """What is needed to open a cache again: its file in the folder of the run, its dtype and its shapes."""

    model_config = ConfigDict(frozen=True)

    file: str
    dtype: str
    shapes: list[tuple[Count, ...]]


class TensorCache(Sequence[Tensor]):
    """A list of tensors of one dtype on the host.

    Args:
        dtype: that tensors are converted to when they are appended.
        path: of the file that holds them; None to hold them in memory.
    """

    def __init__(self, dtype: torch.dtype, path: Path | None = None) -> None:
        self.dtype = dtype
        self.path = path
        self._shapes: list[tuple[int, ...]] = []
        self._offsets: list[int] = [0]
        self._tensors: list[Tensor] = []
        if path is not None:
            path.write_bytes(b"")

    def append(self, tensor: Tensor) -> None:
        """Add a tensor at the end. It must not be written to afterwards."""
        host = tensor.detach().to("cpu", self.dtype).contiguous()
        self._shapes.append(tuple(host.shape))
        self._offsets.append(self._offsets[-1] + host.nbytes)
        if self.path is None:
            self._tensors.append(host)
        else:
            with self.path.open("ab") as file:
                file.write(_bytes(host))

    def __len__(self) -> int:
        return len(self._shapes)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Tensor]: ...
    def __getitem__(self, index: int | slice) -> Tensor | Sequence[Tensor]:
        """Return a tensor; one from a file is only read where it is looked at."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(index)
        if self.path is None:
            return self._tensors[index]
        start, end, shape = self._offsets[index], self._offsets[index + 1], self._shapes[index]
        if start == end:
            return torch.empty(shape, dtype=self.dtype)
        # Copy on write: what is read must not be changed by accident, and torch wants memory that it could write to.
        raw = np.memmap(self.path, dtype=np.uint8, mode="c", offset=start, shape=(end - start,))
        return torch.from_numpy(raw).view(self.dtype).reshape(shape)

    def __iter__(self) -> Iterator[Tensor]:
        return (self[index] for index in range(len(self)))

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return self._offsets[-1]

    def save(self, path: Path) -> TensorCacheRecord:
        """Make sure that the cache is in the file ``path``, down to the disk, and return how to open it again."""
        assert self.path in (None, path), f"{path} is not {self.path}"
        with path.open("wb" if self.path is None else "ab") as file:
            for tensor in self._tensors:
                file.write(_bytes(tensor))
            file.flush()
            os.fsync(file.fileno())
        return TensorCacheRecord(file=path.name, dtype=str(self.dtype).removeprefix("torch."), shapes=self._shapes)

    @staticmethod
    def load(record: TensorCacheRecord, folder: Path, *, in_memory: bool) -> TensorCache:
        """Open a cache that was saved in ``folder``.

        Raises:
            CheckpointError: the record names no regular file in ``folder``, or no dtype.
            OSError: the file is not as long as the record says.
        """
        dtype = getattr(torch, record.dtype, None)
        if not isinstance(dtype, torch.dtype):
            raise CheckpointError(f"A stream in {folder} is of {record.dtype!r}, which is no dtype. It is damaged.")
        cache = TensorCache(dtype)
        cache.path = file_inside(folder, record.file)
        for shape in record.shapes:
            cache._shapes.append(tuple(shape))
            cache._offsets.append(cache._offsets[-1] + math.prod(shape) * cache.dtype.itemsize)
        found = cache.path.stat().st_size
        if found != cache.nbytes:
            raise OSError(f"{cache.path} has {found} bytes, expected {cache.nbytes}")
        if in_memory:
            cache._tensors = [tensor.clone() for tensor in cache]
            cache.path = None
        return cache

    def delete(self) -> None:
        """Give back the memory or the file."""
        self._tensors.clear()
        if self.path is not None:
            self.path.unlink(missing_ok=True)


@dataclass
class ScratchSpace:
    """Where the caches of a run live.

    Attributes:
        in_memory: whether they are held in memory while they are used.
        folder: for their files; made on the first use if it is None.
    """

    in_memory: bool = True
    folder: Path | None = None
    _temporary: tempfile.TemporaryDirectory[str] | None = field(default=None, repr=False)

    def cache(self, name: str, dtype: torch.dtype) -> TensorCache:
        """Return an empty cache."""
        return TensorCache(dtype, None if self.in_memory else self.path(name))

    def close(self) -> None:
        """Delete the temporary folder, if there is one."""
        if self._temporary is not None:
            self._temporary.cleanup()

    def path(self, name: str) -> Path:
        """Return the file of the cache ``name``."""
        if self.folder is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="eckart-", ignore_cleanup_errors=True)
            self.folder = Path(self._temporary.name)
        return self.folder / f"{name}.spool"


def _bytes(tensor: Tensor) -> memoryview:
    # numpy knows no bfloat16, so the bytes are handed over as such.
    return tensor.reshape(-1).view(torch.uint8).numpy().data
