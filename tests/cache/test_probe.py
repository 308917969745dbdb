from __future__ import annotations

import pytest
import torch
from tests.cache.helpers import factored
from tests.conftest import make_model

from eckart.cache.attention import Rebuilding
from eckart.cache.probe import NOT_FACTORED, NOT_REPEATED, NOT_SMALLER, Probe, side_bytes
from eckart.cache.recording import record


def found_in(kind: str, *overrides: str) -> Rebuilding:
    found = Probe(record(factored(kind, 0.35, *overrides))[0]).find(16)
    assert isinstance(found, Rebuilding)
    return found


def test_only_what_keys_and_values_need_is_wanted() -> None:
    found = found_in("llama")
    assert found.wanted == {"k_proj", "v_proj"}
    assert (found.keys, found.values) == (True, True)
    assert found.zeros == {"q_proj": 8, "o_proj": 8}  # as wide as one head
    assert len(found.roles.stored) == 2  # the cosines and the sines of its angles
    assert len(found.roles.blank) == 2  # hidden states and positions
    shared = found_in("llama", "sharing=shared")
    assert shared.wanted == {"k_proj", "v_proj"}
    assert len(shared.sources) == 1


def test_a_fused_projection_is_wanted_whole_and_nothing_beside_it() -> None:
    found = found_in("gpt2")
    assert found.wanted == {"c_attn"}
    assert found.roles.stored == {}


def test_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    recording = record(make_model())[0]
    assert Probe(recording).find(16) == NOT_FACTORED
    recording = record(factored())[0]
    probe = Probe(recording)
    recording.states[0].keys.add_(1)
    recording.states[0].values.add_(1)
    probe.handed = recording.whole_states()
    assert probe.find(16) == NOT_REPEATED
    large = Probe(record(factored("llama", 0.35))[0])
    narrow = large.handed
    large.handed = type(narrow)(narrow.keys, narrow.values)
    monkeypatch.setattr(large, "_saved", lambda found, bits: -1)
    assert large.find(16) == NOT_SMALLER


def test_bytes_of_both_sides() -> None:
    recording = record(factored())[0]
    assert side_bytes(recording.states[0]) == (2 * 8 * 4, 2 * 8 * 4)
    half = record(factored().bfloat16())[0]
    assert side_bytes(half.states[0]) == (2 * 8 * 2, 2 * 8 * 2)
    found = Probe(half).find(16)
    assert isinstance(found, Rebuilding)
    assert torch.finfo(half.states[0].keys.dtype).bits == 16
