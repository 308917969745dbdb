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
    tokens = FollowedTokens.of(followed, torch.zeros(1, 2, 3), torch.ones(1, 2, 3))
    found = WalkState(2, original, compressed, tokens).streams
    assert [id(stream) for stream in found] == [id(stream) for stream in (original, compressed, followed)]
    assert torch.equal(tokens.original, torch.zeros(1, 2, 3))
    assert torch.equal(tokens.compressed, torch.ones(1, 2, 3))


def test_a_walk_starts_with_no_records_of_its_own() -> None:
    one, other = WalkState(), WalkState()
    assert one.records == Records()
    assert one.records is not other.records
