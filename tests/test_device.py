from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from eckart.device import (
    autocast,
    compute_dtype,
    free_memory,
    has_kernel_for_each_shape,
    host_memory,
    is_emulated,
    peak_device_memory,
    peak_host_memory,
    resolve_device,
    seed_generators,
)
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


@pytest.mark.parametrize("emulated", [True, False])
def test_a_cpu_computes_halves_in_float32_if_it_only_emulates_them(
    emulated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eckart.device.is_emulated", lambda dtype: emulated)
    cpu = torch.device("cpu")
    assert compute_dtype(torch.bfloat16, cpu) is (torch.float32 if emulated else torch.bfloat16)
    assert compute_dtype(torch.float32, cpu) is torch.float32
    assert compute_dtype(torch.bfloat16, torch.device("meta")) is torch.bfloat16


SECONDS = {torch.float32: 0.001, torch.bfloat16: 0.5, torch.float16: 0.0003}  # of a product


class Clock(TorchFunctionMode):
    """A clock that matrix products move on, by seconds that depend on their dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.products: list[torch.dtype] = []

    def __torch_function__(
        self, function: Any, types: Any, arguments: Any = (), options: dict[str, Any] | None = None
    ) -> Any:
        if function in (torch.Tensor.matmul, torch.Tensor.__matmul__):
            self.products.append(arguments[0].dtype)
            self.now += SECONDS[arguments[0].dtype]
        return function(*arguments, **(options or {}))


def test_emulation_is_a_slower_product_and_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("eckart.device.perf_counter", lambda: clock.now)
    is_emulated.cache_clear()
    with clock:
        assert [is_emulated(torch.bfloat16), is_emulated(torch.bfloat16)] == [True, True]
        assert clock.products.count(torch.bfloat16) == 1  # so slow that once is enough
        assert clock.products.count(torch.float32) > 1  # the best of several
        assert not is_emulated(torch.float16)
    is_emulated.cache_clear()


def test_autocast_only_narrows() -> None:
    matrix = torch.ones(4, 4)
    for dtype in (torch.float32, torch.bfloat16):
        with autocast(torch.device("cpu"), dtype):
            assert (matrix @ matrix).dtype is dtype


def test_kernels_for_shapes_are_those_of_16_bits_on_a_cpu() -> None:
    kinds = (torch.bfloat16, torch.float16, torch.float32, torch.int16)
    assert [has_kernel_for_each_shape(torch.zeros(1, dtype=kind)) for kind in kinds] == [True, True, False, False]
    assert not has_kernel_for_each_shape(torch.zeros(1, dtype=torch.bfloat16, device="meta"))


def test_free_memory_is_positive() -> None:
    assert 0 < free_memory(torch.device("cpu")) < 10**14
    assert peak_device_memory(torch.device("cpu")) is None


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


def test_generators_are_seeded_and_no_note_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        expected = torch.randn(4)
        monkeypatch.setattr(torch, "manual_seed", None)
        for name in ("cuda", "xpu", "mtia"):  # what is not here would be told the seed when it comes
            monkeypatch.setattr(f"torch.{name}.manual_seed_all", None)
        seed_generators(3)
        assert torch.equal(torch.randn(4), expected)


def test_an_accelerator_in_use_is_seeded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    for in_use in (False, True):
        module = SimpleNamespace(is_initialized=lambda in_use=in_use: in_use, manual_seed_all=seeds.append)
        monkeypatch.setattr(torch, "get_device_module", lambda module=module: module)
        with torch.random.fork_rng(devices=[]):
            seed_generators(7)
        assert seeds == [7] * in_use
