"""The one place that knows about devices: which one to use, what to compute in, how much memory there is."""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import perf_counter

import psutil
import torch

from eckart.errors import EckartError


def accelerators() -> tuple[str | None, int]:
    """Return the kind of accelerator that there is, None if there is none, and how many of it."""
    if not torch.accelerator.is_available():
        return None, 0
    found = torch.accelerator.current_accelerator()
    assert found is not None
    return found.type, torch.accelerator.device_count()


def resolve_device(name: str = "auto", turn: int | None = None) -> torch.device:
    """Return the device called ``name``; ``auto`` is the accelerator if there is one, else the CPU.

    Args:
        name: of the device.
        turn: number of this process among several of this machine: each takes the next accelerator, unless the name
            says which. None where there is one process.

    Raises:
        EckartError: the name is no device, or the device is not on this machine.
    """
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if name == "auto":
        return torch.device("cpu") if accelerator is None else _in_turn(accelerator, turn)
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise EckartError(f"No device is called {name!r}. Use 'auto', 'cpu' or an accelerator's name.") from error
    if device.type != "cpu" and (accelerator is None or accelerator.type != device.type):
        found = accelerator.type if accelerator else "no accelerator"
        raise EckartError(f"Device {name!r} is not available here (found: {found}). Use --device auto or cpu.")
    return device if device.type == "cpu" else _in_turn(device, turn)


def _in_turn(accelerator: torch.device, turn: int | None) -> torch.device:
    """Return the accelerator of one of several processes, and let it be the one that is used."""
    if turn is None or ":" in str(accelerator):
        return accelerator
    index = turn % torch.accelerator.device_count()
    torch.accelerator.set_device_index(index)
    return torch.device(accelerator.type, index)


def accelerator_random_state() -> Callable[[], None]:
    """Return what gives the accelerator's global generator back as it is now, if there is one that is in use."""
    if torch.accelerator.is_available():
        module = torch.get_device_module()
        if module.is_initialized():  # asking for the state would make it so, which takes memory
            return functools.partial(module.set_rng_state, module.get_rng_state())
    return lambda: None


def seed_generators(seed: int) -> None:
    """Seed the global generators of the CPU and of accelerators in use.

    ``torch.manual_seed`` does so too, but leaves a note for each kind of accelerator that is not in use, with the lines
    of code that lead to it: that takes as long as a small model, and stays in memory.
    """
    torch.default_generator.manual_seed(seed)
    if torch.accelerator.is_available():
        module = torch.get_device_module()
        if module.is_initialized():
            module.manual_seed_all(seed)


def compute_dtype(stored: torch.dtype, device: torch.device) -> torch.dtype:
    """Return the dtype to run forward passes in: the stored one, or float32 on a CPU that only emulates it.

    Many CPUs emulate 16-bit matrix products, at up to a hundredth of the float32 speed.
    """
    is_half = stored.is_floating_point and stored.itemsize == 2
    return torch.float32 if is_half and device.type == "cpu" and is_emulated(stored) else stored


@functools.cache
def is_emulated(dtype: torch.dtype) -> bool:
    """Return whether this CPU multiplies matrices of ``dtype`` slower than those of float32; measured once."""
    return _product_seconds(dtype) > _product_seconds(torch.float32)


def _product_seconds(dtype: torch.dtype) -> float:
    """Return the seconds of one matrix product on the CPU, the best of several."""
    matrix = torch.ones(384, 384, dtype=dtype)
    best = float("inf")
    for _ in range(8):
        start = perf_counter()
        matrix @ matrix
        best = min(best, perf_counter() - start)
        if best > 0.1:  # the answer is clear, and each repetition slow
            break
    return best


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Return a context in which the matrix products of float32 tensors are computed in ``dtype``."""
    return torch.autocast(device.type, dtype, enabled=dtype.itemsize == 2)


@contextmanager
def products_in_bfloat16(device: torch.device) -> Iterator[None]:
    """Let products of float32 matrices round them to bfloat16 before, where this CPU is faster so; sums stay float32.

    Whoever asks for it has matrices that are bfloat16 numbers: then nothing is rounded.
    """
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # made at run time
    before = matmul.fp32_precision
    if device.type != "cpu" or is_emulated(torch.bfloat16):
        yield
        return
    matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before


def moment_device(device: torch.device) -> torch.device:
    """Return where float64 sums and factorisations run: ``device``, or the CPU if it has no float64."""
    return torch.device("cpu") if device.type == "mps" else device


def synchronize(device: torch.device) -> None:
    """Wait until ``device`` has done what it was asked, so that a clock tells the truth."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def has_kernel_for_each_shape(tensor: torch.Tensor) -> bool:
    """Return whether products with a tensor take a kernel that is made for their shapes, and kept for a while.

    The library that multiplies 16-bit numbers on CPUs does so.
    """
    return tensor.device.type == "cpu" and tensor.is_floating_point() and tensor.element_size() == 2


def give_back_memory(device: torch.device) -> None:
    """Let the system have what was freed: allocators keep it, in pieces that larger tensors do not fit into."""
    if device.type != "cpu":
        torch.accelerator.empty_cache()
    with suppress(OSError, AttributeError):  # the C library is another one than GNU's
        ctypes.CDLL(None).malloc_trim(0)


def host_memory() -> int:
    """Return the resident size of this process now, in bytes."""
    return int(psutil.Process().memory_info().rss)


def peak_host_memory() -> int:
    """Return the largest resident size of this process so far, in bytes."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource  # not there on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def peak_device_memory(device: torch.device) -> int | None:
    """Return the largest number of bytes allocated on an accelerator so far; None for the CPU."""
    return None if device.type == "cpu" else int(torch.accelerator.max_memory_allocated(device))


def reset_peak_device_memory(device: torch.device) -> None:
    """Let :func:`peak_device_memory` begin anew; nothing on the CPU."""
    if device.type != "cpu":
        torch.accelerator.reset_peak_memory_stats(device)


def free_memory(device: torch.device) -> int:
    """Return the bytes that can still be taken on ``device``: for the CPU, within the limit of its control group."""
    if device.type != "cpu":
        return int(torch.accelerator.get_memory_info(device)[0])
    free = int(psutil.virtual_memory().available)
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        path = Path(limit)
        text = path.read_text().strip() if path.is_file() else "max"
        if text.isdigit():
            free = min(free, max(0, int(text) - host_memory()))
    return free
