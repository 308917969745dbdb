"""The one place that knows about devices: which one to use, what to compute in, how much memory there is."""

from __future__ import annotations

import sys

import psutil
import torch

from eckart.errors import EckartError


def resolve_device(name: str = "auto") -> torch.device:
    """Return the device called ``name``; ``auto`` is the accelerator if there is one, else the CPU.

    Raises:
        EckartError: the name is no device, or the device is not on this machine.
    """
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if name == "auto":
        return accelerator or torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise EckartError(f"No device is called {name!r}. Use 'auto', 'cpu' or an accelerator's name.") from error
    if device.type != "cpu" and (accelerator is None or accelerator.type != device.type):
        found = accelerator.type if accelerator else "no accelerator"
        raise EckartError(f"Device {name!r} is not available here (found: {found}). Use --device auto or cpu.")
    return device


def compute_dtype(stored: torch.dtype, device: torch.device) -> torch.dtype:
    """Return the dtype to run forward passes in: float32 on a CPU, the stored dtype on an accelerator.

    Many CPUs emulate 16-bit matrix products, at up to a hundredth of the float32 speed.
    """
    return torch.float32 if device.type == "cpu" else stored


def moment_device(device: torch.device) -> torch.device:
    """Return where float64 sums and factorisations run: ``device``, or the CPU if it has no float64."""
    return torch.device("cpu") if device.type == "mps" else device


def synchronize(device: torch.device) -> None:
    """Wait until ``device`` has done what it was asked, so that a clock tells the truth."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


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
