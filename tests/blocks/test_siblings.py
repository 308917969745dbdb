"""Groups of experts, those that a run did not reach too, in an order in which they can be compressed."""

from __future__ import annotations

import torch
from torch import nn

from eckart.blocks.siblings import expert_place, with_siblings
from eckart.layers.linear_stack import StackLayout, expand_parameter


def expert(width: int = 4) -> nn.Module:
    """Return an expert of three linears."""
    return nn.ModuleDict({"gate": nn.Linear(4, width), "up": nn.Linear(4, width), "down": nn.Linear(width, 4)})


def listed(*sizes: int) -> nn.Module:
    """Return a block with a list of experts."""
    return nn.ModuleDict({"q": nn.Linear(4, 4), "experts": nn.ModuleList(map(expert, sizes))})


def stacked(number: int) -> nn.Module:
    """Return a block with two stacks."""
    block = nn.ModuleDict({"q": nn.Linear(4, 4), "experts": nn.Module()})
    for leaf in ("up", "down"):
        block["experts"].register_parameter(leaf, nn.Parameter(torch.zeros(number, 4, 4)))
        expand_parameter(block["experts"], leaf, StackLayout(number, transposed=False))
    return block


def test_a_block_without_any_stays_as_it_is() -> None:
    groups = [("q",), ("k", "v")]
    assert with_siblings(nn.ModuleDict({name: nn.Linear(4, 4) for name in "qkv"}), groups) == [
        (("q",), ("q",), None),
        (("k", "v"), ("k", "v"), None),
    ]


def test_a_list_keeps_its_order_and_what_was_not_reached_is_behind_what_it_is_like() -> None:
    run = [
        ("q",),
        ("experts.2.gate", "experts.2.up"),
        ("experts.2.down",),
        ("experts.0.gate", "experts.0.up"),
        ("experts.0.down",),
    ]
    found = with_siblings(listed(4, 4, 4, 6), run)  # the last is of another shape
    assert [names for names, _, _ in found] == [
        *run[:4],
        ("experts.1.gate", "experts.1.up"),
        run[4],
        ("experts.1.down",),
    ]
    assert [alike for names, alike, _ in found if "1" in names[0]] == run[3:]
    assert {stage for _, _, stage in found} == {None}


def test_the_layers_of_a_stack_come_together() -> None:
    run = [("q",), ("experts.up.1",), ("experts.down.1",), ("experts.up.0",), ("experts.down.0",)]
    found = with_siblings(stacked(3), run)
    assert [names[0] for names, _, _ in found] == [
        "q",
        *(f"experts.up.{number}" for number in range(3)),
        *(f"experts.down.{number}" for number in range(3)),
    ]
    assert [stage for _, _, stage in found] == [None, *["experts.up.*"] * 3, *["experts.down.*"] * 3]
    assert [alike for names, alike, _ in found if names == alike] == [run[0], run[3], run[1], run[4], run[2]]


def test_a_list_that_no_run_reaches_is_in_no_group() -> None:
    assert [names for names, _, _ in with_siblings(listed(4, 4), [("q",)])] == [("q",)]


def test_modules_of_one_kind_in_a_dictionary_are_siblings_and_parts_of_one_are_not() -> None:
    block = nn.ModuleDict({"experts": nn.ModuleDict({name: expert() for name in ("a", "b")})})
    run = [("experts.a.gate", "experts.a.up"), ("experts.a.down",)]
    found = with_siblings(block, run)
    assert [names for names, _, _ in found] == [
        run[0],
        ("experts.b.gate", "experts.b.up"),
        run[1],
        ("experts.b.down",),
    ]


def test_the_place_of_a_linear_in_a_mixture() -> None:
    place = expert_place(listed(4, 4), "experts.1.down", "")
    assert place == ("experts.1", "experts.*.down")
    assert expert_place(listed(4, 4), "experts.1.down", "experts.1") is None
    nested = nn.ModuleDict({"mlp": nn.ModuleDict({"experts": nn.ModuleList([nn.ModuleList([nn.Linear(4, 4)])])})})
    assert expert_place(nested, "mlp.experts.0.0", "mlp") == ("experts.0", "mlp.experts.*.0")
    places = [expert_place(stacked(3), f"experts.{leaf}.2", "experts") for leaf in ("up", "down")]
    assert places == [("2", "experts.up.*"), ("2", "experts.down.*")]
