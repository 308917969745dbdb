"""Several processes that work as one: who they are, and all that they exchange. No collective is anywhere else.

They are started by ``torchrun``, or are those of a process group that the caller made. Each calls the same functions in
the same order, over lists that do not depend on what it has seen. With one process all of this does nothing.

Sums are added in the order of the processes: the same number of them gives the same bytes, in all of them. What is no
tensor is exchanged as JSON. Tensors of an accelerator go through its own backend where each process has an accelerator
to itself, and over the host elsewhere.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from eckart.device import accelerators
from eckart.errors import EckartError, EckartWarning, ProcessError, ToldElsewhereError

Found = TypeVar("Found")

TO_MEET = timedelta(minutes=10)  # all processes have to be there by then
TO_ANSWER = timedelta(hours=24)  # one may factorise a large layer for long; one that ends is noticed at once
PIECE = 1 << 22  # numbers that are added at once
RENDEZVOUS = ("RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class _Run:
    """The processes that work together now.

    Attributes:
        group: for what is on the host, with a time-out of its own.
        rank: of this process.
        size: how many there are.
    """

    group: dist.ProcessGroup
    rank: int
    size: int


_now: _Run | None = None  # None while this process works alone


def rank() -> int:
    """Return the number of this process, from 0; 0 where it works alone."""
    return 0 if _now is None else _now.rank


def size() -> int:
    """Return how many processes work together."""
    return 1 if _now is None else _now.size


def turn() -> int | None:
    """Return the number of this process among those of its machine, by which accelerators are dealt out."""
    if not _are_several():
        return None
    return _number("LOCAL_RANK", dist.get_rank() if dist.is_initialized() else _number("RANK", 0))


def neighbours() -> int:
    """Return how many processes of the run share this machine, and its memory."""
    return max(1, _number("LOCAL_WORLD_SIZE", size())) if _now is not None else 1


def first_to_speak() -> bool:
    """Return whether this process prints for all, also before they have met."""
    if _now is None and dist.is_available() and dist.is_initialized():
        return dist.get_rank() == 0
    return _number("RANK", 0) == 0 if _now is None and _are_several() else rank() == 0


def label() -> str:
    """Return the name of this process for messages, such as ``process 3``; empty if there is one only."""
    if not _are_several():
        return ""
    return f"process {dist.get_rank() if dist.is_initialized() else os.environ.get('RANK', '0')}"


@contextmanager
def together() -> Iterator[None]:
    """Work with all processes there are, as one; each of them enters this.

    Raises:
        ProcessError: ``WORLD_SIZE`` says that there are several, and nothing says how they find one another, or they
            did not meet in time.
    """
    global _now
    if _now is not None or not _are_several():
        yield
        return
    if not dist.is_initialized():
        _meet()
    try:
        group = dist.new_group(backend="gloo", timeout=TO_ANSWER)
    except (RuntimeError, ValueError) as error:
        raise ProcessError(
            f"The {dist.get_world_size()} processes of the group did not all come ({_line(error)}). Each of them has "
            "to make this call."
        ) from error
    _now = _Run(group, dist.get_rank(), dist.get_world_size())
    del group
    try:
        with warnings.catch_warnings():
            if _now.rank:
                warnings.simplefilter("ignore", EckartWarning)
            yield
        wait()
    finally:
        # Those who still wait for this process are told so by the end of its connections.
        group, _now = _now.group, None
        with suppress(RuntimeError, ValueError, AssertionError):
            dist.destroy_process_group(group)


@contextmanager
def alone() -> Iterator[None]:
    """Work as if there was no other process: for what is dealt out as a whole."""
    global _now
    before, _now = _now, None
    try:
        yield
    finally:
        _now = before


def first(work: Callable[[], Found]) -> Found:
    """Return what the first process finds, which works alone meanwhile; what stops it stops all.

    Args:
        work: returns what JSON can hold.

    Raises:
        ToldElsewhereError: in the other processes, where the first one has raised an error of Eckart's.
    """
    if _now is None:
        return work()
    found, problem = None, None
    if _now.rank == 0:
        try:
            found = work()
        except EckartError as error:
            give([None, str(error)])
            raise
    found, problem = give([found, None])
    if problem is not None:
        raise ToldElsewhereError(f"Process 0 has stopped the run: {problem}")
    return cast(Found, found)


def dealt(count: int) -> range:
    """Return which of some things, by their numbers, this process takes."""
    return range(rank(), count, size())


def wait() -> None:
    """Wait until all processes are here."""
    gather(None)


def gather(value: Any) -> list[Any]:
    """Return what each process gives, in their order.

    Args:
        value: of this process: what JSON can hold.
    """
    if _now is None:
        return [value]
    mine = _bytes(value)
    with _told():
        lengths = torch.zeros(_now.size, dtype=torch.int64)
        dist.all_gather(list(lengths.unbind()), torch.tensor(len(mine)), group=_now.group)
        parts = torch.zeros(_now.size, int(lengths.max()), dtype=torch.uint8)
        padded = torch.zeros_like(parts[0])
        padded[: len(mine)] = mine
        dist.all_gather(list(parts.unbind()), padded, group=_now.group)
    return [_value(part[:length]) for part, length in zip(parts, lengths.tolist(), strict=True)]


def give(value: Any, owner: int = 0) -> Any:
    """Return what one process gives to all.

    Args:
        value: what JSON can hold; counts in the owner only.
        owner: number of that process.
    """
    if _now is None:
        return value
    mine = _bytes(value if _now.rank == owner else None)
    with _told():
        length = torch.tensor(len(mine))
        dist.broadcast(length, owner, group=_now.group)
        mine = mine if _now.rank == owner else torch.zeros(int(length), dtype=torch.uint8)
        dist.broadcast(mine, owner, group=_now.group)
    return _value(mine)


def give_tensors(tensors: Mapping[str, Tensor] | None, owner: int = 0) -> dict[str, Tensor]:
    """Return the tensors that one process gives to all, by name: in the owner its own, elsewhere on the host.

    Args:
        tensors: count in the owner only.
        owner: number of that process.
    """
    if _now is None or _now.rank == owner:
        assert tensors is not None
        found = dict(tensors)
    if _now is None:
        return found
    mine = _now.rank == owner
    forms = give([[name, _dtype_name(t), list(t.shape)] for name, t in found.items()] if mine else None, owner)
    if not mine:
        found = {name: torch.empty(shape, dtype=getattr(torch, dtype)) for name, dtype, shape in forms}
    with _told():
        for tensor in found.values():
            if tensor.numel():
                host = tensor.detach().cpu().contiguous().reshape(-1)
                dist.broadcast(host.view(torch.uint8), owner, group=_now.group)
                if not mine:
                    tensor.copy_(host.view(tensor.shape))
    return found


def total(*numbers: float) -> tuple[float, ...]:
    """Return the sums of numbers over all processes."""
    if _now is None or not numbers:
        return numbers
    sums = torch.tensor(numbers, dtype=torch.float64)
    add([sums])
    return tuple(sums.tolist())


def add(tensors: Iterable[Tensor]) -> None:
    """Let each tensor become its sum over all processes.

    Args:
        tensors: contiguous; in all processes as many, of the same shapes and dtypes.
    """
    if _now is None:
        return
    small: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    with _told():
        for tensor in tensors:
            flat = tensor.detach().view(-1)
            if len(flat) >= PIECE:
                for piece in torch.split(flat, PIECE):
                    _add(piece)
                continue
            waiting = small.setdefault((flat.dtype, flat.device), [])
            waiting.append(flat)
            if sum(map(len, waiting)) >= PIECE:
                _add_several(waiting)
                waiting.clear()
        for waiting in small.values():
            _add_several(waiting)


def add_found(found: Sequence[Tensor | None], device: torch.device) -> list[Tensor | None]:
    """Return sums over all processes of what some of them may not have; None where none has it.

    Args:
        found: of this process, changed in place; the list is the same in all of them but for what is None.
        device: where those are made that are missing here.

    Raises:
        ProcessError: two processes have tensors of different shapes.
    """
    if _now is None:
        return list(found)
    every = gather([None if t is None else [_dtype_name(t), list(t.shape)] for t in found])
    sums: list[Tensor | None] = []
    for mine, *forms in zip(found, *every, strict=True):
        known = {(form[0], tuple(form[1])) for form in forms if form is not None}
        if len(known) > 1:
            raise ProcessError(f"The processes have different things to add: {sorted(map(str, known))}.")
        if mine is not None:
            sums.append(mine.contiguous())
        else:
            sums.append(next((torch.zeros(s, dtype=getattr(torch, d), device=device) for d, s in known), None))
    add(tensor for tensor in sums if tensor is not None)
    return sums


def _add_several(tensors: Sequence[Tensor]) -> None:
    if not tensors:
        return
    whole = torch.cat(list(tensors))
    _add(whole)
    for tensor, part in zip(tensors, torch.split(whole, [len(t) for t in tensors]), strict=True):
        tensor.copy_(part)


def _add(flat: Tensor) -> None:
    """Add (numbers,) in place: each process adds up a part of them, in the order of the processes."""
    assert _now is not None
    group = None if _has_backend(flat.device) else _now.group
    if group is None:
        dist.barrier(group=_now.group)  # where one is waited for, it is here, with the longer time-out
    mine = torch.zeros(-(-len(flat) // _now.size) * _now.size, dtype=flat.dtype, device=None if group else flat.device)
    mine[: len(flat)] = flat
    theirs = torch.empty_like(mine)
    dist.all_to_all_single(theirs, mine, group=group)
    parts = theirs.view(_now.size, -1)
    summed = parts[0].clone()
    for part in parts[1:]:
        summed += part
    dist.all_gather(list(parts.unbind()), summed, group=group)
    flat.copy_(theirs[: len(flat)])


def _has_backend(device: torch.device) -> bool:
    """Return whether tensors of a device go straight from one accelerator to another."""
    backends = dict(part.split(":") for part in dist.get_backend_config().split(","))
    return device.type != "cpu" and backends.get(device.type, "gloo") != "gloo"


def _are_several() -> bool:
    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size() > 1
    return _number("WORLD_SIZE", 1) > 1


def _meet() -> None:
    """Make a process group of what the environment says."""
    count = _number("WORLD_SIZE", 1)
    missing = [name for name in RENDEZVOUS if not os.environ.get(name)]
    if missing:
        raise ProcessError(
            f"WORLD_SIZE says that {count} processes work together, and {', '.join(missing)} are not set, by which "
            f"they find one another. Start them with `torchrun --nproc-per-node {count} -m eckart ...`, or unset "
            "WORLD_SIZE to work with one."
        )
    kind, found = accelerators()
    backend = "gloo"
    if kind is not None and found >= _number("LOCAL_WORLD_SIZE", count):
        backend = f"cpu:gloo,{kind}:{dist.get_default_backend_for_device(kind)}"
    try:
        dist.init_process_group(backend, timeout=TO_MEET)
    except (RuntimeError, ValueError) as error:
        where = ":".join(os.environ[name] for name in RENDEZVOUS[1:])
        raise ProcessError(
            f"{count} processes were to meet at {where}, and did not ({_line(error)}). Start all of them with torchrun."
        ) from error
    atexit.register(_part)  # once a process has parted from others it cannot meet them again


def _part() -> None:
    with suppress(RuntimeError, ValueError, AssertionError):
        dist.destroy_process_group()


@contextmanager
def _told() -> Iterator[None]:
    """Say in words that another process is gone."""
    try:
        yield
    except RuntimeError as error:
        raise ProcessError(
            f"Another process of the run has ended, or cannot be reached any more ({_line(error)}). What it said of "
            "that stands beside this."
        ) from error


def _line(error: Exception) -> str:
    text = re.sub(r"\[\S*\]:? ?", "", str(error)).strip() or type(error).__name__  # without places in its source
    return text.splitlines()[0].partition(". ")[0].removesuffix(".")


def _number(name: str, default: int) -> int:
    text = os.environ.get(name) or str(default)
    if not text.isdigit():
        raise ProcessError(f"{name} is {text!r} in the environment; expected a number. Start with torchrun.")
    return int(text)


def _bytes(value: Any) -> Tensor:
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)


def _value(encoded: Tensor) -> Any:
    return json.loads(bytes(encoded.numpy()))


def _dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
