from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from eckart.device import compute_dtype, host_memory, peak_host_memory, resolve_device
from eckart.errors import EckartError


def test_devices_by_name() -> None:
    assert resolve_device("cpu").type == "cpu"
    expected = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    assert resolve_device("auto") == expected


@pytest.mark.parametrize("name", ["gpu", "cpux", ""])
def test_no_device_of_that_name(name: str) -> None:
    with pytest.raises(EckartError, match="No device is called"):
        resolve_device(name)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is an accelerator here")
def test_a_device_that_is_not_here() -> None:
    with pytest.raises(EckartError, match=r"not available here \(found: no accelerator"):
        resolve_device("cuda")


def test_a_cpu_computes_in_float32() -> None:
    assert compute_dtype(torch.bfloat16, torch.device("cpu")) is torch.float32


def test_memory_is_counted_in_bytes() -> None:
    assert 50e6 < host_memory() <= peak_host_memory() * 1.01


def test_importing_the_package_touches_no_accelerator_and_asks_no_network() -> None:
    code = """
import socket, torch
def refuse(*args, **kwargs): raise AssertionError("importing eckart asked the network")
socket.socket.connect = refuse
import eckart, sys
assert not torch.cuda.is_initialized()
heavy = {"datasets", "gguf", "lm_eval", "matplotlib"} & set(sys.modules)
assert not heavy, heavy
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
