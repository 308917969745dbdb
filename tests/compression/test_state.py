from __future__ import annotations

import torch

from eckart.blocks.tensor_cache import TensorCache
from eckart.compression.drift import FollowedTokens
from eckart.compression.records import Records
from eckart.compression.state import WalkState


def test_hidden_states_are_all_that_there_are() -> None:
    original, compressed, followed = (TensorCache(torch.float32) for _ in range(3))
    assert WalkState().streams == []
    assert WalkState(original=original).streams == [original]
    one, other = [torch.zeros(1, 2, 3), torch.zeros(1, 4, 3)], [torch.ones(1, 2, 3), torch.ones(1, 4, 3)]
    tokens = FollowedTokens.of(followed, one, other)
    tap = TensorCache(torch.float32)
    found = WalkState(2, original, compressed, tokens, {"original-00001": tap}).streams
    assert [id(stream) for stream in found] == [id(stream) for stream in (original, compressed, followed, tap)]
    assert all(torch.equal(a, b) for a, b in zip(tokens.original, one, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(tokens.compressed, other, strict=True))


def test_a_walk_starts_with_no_records_of_its_own() -> None:
    one, other = WalkState(), WalkState()
    assert one.records == Records()
    assert one.records is not other.records
