from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from eckart.blocks.cached_tensors import CachedPairs, CachedTensors
from eckart.blocks.tensor_cache import TensorCache


def cache(name: str, folder: Path | None) -> TensorCache:
    return TensorCache(torch.float32, None if folder is None else folder / name)


@pytest.fixture(params=["memory", "file"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return None if request.param == "memory" else tmp_path


def test_tensors_are_found_by_name_in_the_order_they_were_added(folder: Path | None) -> None:
    tensors = CachedTensors(cache("tensors", folder))
    expected: dict[str, Tensor] = {name: torch.randn(size, 3) for size, name in enumerate("cab", 1)}
    for name, tensor in expected.items():
        tensors.add(name, tensor)
    assert list(tensors) == ["c", "a", "b"]
    assert len(tensors) == 3
    assert all(torch.equal(tensors[name], tensor) for name, tensor in expected.items())
    assert "d" not in tensors
    with pytest.raises(KeyError):
        tensors["d"]


def test_two_names_of_one_tensor_hold_it_once(folder: Path | None) -> None:
    held = cache("tensors", folder)
    tensors = CachedTensors(held)
    tensors.add("q", torch.ones(4))
    tensors.add_name("k", "q")
    assert torch.equal(tensors["k"], tensors["q"])
    assert len(tensors) == 2
    assert held.nbytes == 16


def test_pairs_of_one_tensor_hold_it_once(folder: Path | None) -> None:
    caches = cache("first", folder), cache("second", folder)
    pairs = CachedPairs(*caches)
    same, one, other = (torch.full((4,), float(value)) for value in range(3))
    pairs.add("same", same, same)
    pairs.add("apart", one, other)
    pairs.add_name("same again", "same")
    pairs.add_name("apart again", "apart")
    assert list(pairs) == ["same", "apart", "same again", "apart again"]
    assert len(pairs) == 4
    for name, expected in (("same", (same, same)), ("apart", (one, other))):
        for alias in (name, f"{name} again"):
            assert all(torch.equal(*both) for both in zip(pairs[alias], expected, strict=True))
    assert [held.nbytes for held in caches] == [32, 16]
