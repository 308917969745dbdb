from __future__ import annotations

from pathlib import Path

import pytest
import torch

from eckart.blocks.tensor_cache import TensorCache
from eckart.maths.moments import Moments, summed
from eckart.methods.sensitivity.kept_moments import KeptMoments

CPU = torch.device("cpu")


def moments_of(width: int, seed: int) -> Moments:
    made = Moments.zeros(width, paired=False, device=CPU)
    made.add(torch.randn(7 + seed, width, generator=torch.Generator().manual_seed(seed)))
    return made


def assert_alike(found: Moments, wanted: Moments) -> None:
    assert (found.tokens, found.floor, len(found.runs)) == (wanted.tokens, wanted.floor, len(wanted.runs))
    assert found.shift is None
    for one, other in zip(found.sums, wanted.sums, strict=True):
        assert one.dtype == torch.float64
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("in_file", [False, True])
def test_what_was_added_comes_back(in_file: bool, tmp_path: Path) -> None:
    kept = KeptMoments(TensorCache(torch.float32, tmp_path / "moments" if in_file else None))
    wanted = {"a": moments_of(3, 0), "b": summed([moments_of(5, 1), moments_of(5, 2)]), "c": moments_of(4, 3)}
    for path, moments in wanted.items():
        kept.add(path, moments)
    assert list(kept) == list(wanted)
    assert len(kept) == 3
    for path, moments in wanted.items():
        assert_alike(kept[path], moments)
        for one, other in zip(kept[path].runs, moments.runs, strict=True):
            assert_alike(one, other)
