from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor

from eckart.blocks.carried import Carried, Given, SharedMapping, emptied, is_shared

KEYS, VALUES = torch.ones(2), torch.zeros(3)


def test_what_is_given_is_found_where_it_was_put() -> None:
    output = (torch.ones(1), {"bias": KEYS})
    handed: dict[int | str, Any] = {"shared": {"full": (KEYS, [VALUES])}, 1: {0: VALUES}}
    assert Given(1).of(output, {}) is KEYS
    assert Given(1, "shared", "full").of(output, handed) is VALUES
    assert Given(0, 1, 0).of(None, handed) is VALUES


def test_a_mapping_is_made_anew_with_what_blocks_gave() -> None:
    known = {Carried(0, 0): KEYS, Carried(3, 1): VALUES}
    original = OrderedDict(full=(KEYS, VALUES), seen=4)
    shared = SharedMapping(emptied(original), {"full": (Carried(0, 0), Carried(3, 1)), "seen": 4})
    assert (len(original), len(shared.empty)) == (2, 0)
    one, other = shared.filled(known.__getitem__), shared.filled(known.__getitem__)
    for made in (one, other):
        assert isinstance(made, OrderedDict)
        assert made["full"][0] is KEYS
        assert made["full"][1] is VALUES
        assert made["seen"] == 4
    one["more"] = 1  # as a block may do
    assert "more" not in other
    assert not shared.empty


def test_only_mappings_can_be_shared() -> None:
    values: list[tuple[object, bool]] = [({}, True), (OrderedDict(), True), ([], False), (KEYS, False), (None, False)]
    assert [is_shared(value) for value, _ in values] == [expected for _, expected in values]


def test_tensors_are_told_apart_by_who_gave_them() -> None:
    found: dict[Carried, Tensor] = {Carried(0, 0): KEYS, Carried(0, 1): VALUES}
    assert found[Carried(0, 1)] is VALUES
