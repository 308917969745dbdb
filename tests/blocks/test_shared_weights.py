from __future__ import annotations

import pytest
import torch
from tests.blocks.scripted import Scripted, plain, x
from torch import Tensor, nn

import eckart
from eckart.blocks.block import Why
from eckart.blocks.discovery import find_blocks
from eckart.blocks.shared_weights import linears_in_plain_lists, shared_linears, shared_parameters
from eckart.errors import UnsupportedModelError
from eckart.layers import fuse_modules


def run(model: Scripted, hidden: Tensor) -> Tensor:
    for layer in model.layers:
        hidden = layer(hidden)
    return hidden


def share(model: Scripted, first: int, second: int) -> None:
    """Give one layer the weight of another."""
    model.get_submodule(f"layers.{second}.linear").weight = model.get_parameter(f"layers.{first}.linear.weight")


def test_a_parameter_in_two_modules_is_shared_and_a_module_in_two_places_is_not() -> None:
    first, second, third = (nn.Linear(2, 2, bias=False) for _ in range(3))
    second.weight = first.weight
    model = nn.ModuleDict({"a": first, "b": second, "c": third, "d": third})
    assert shared_parameters(model) == {id(first.weight)}
    assert shared_linears(model, nn.ModuleDict({"b": second, "c": third})) == {"b"}


def test_layers_with_one_weight_stay_and_it_is_said_why() -> None:
    model = Scripted(run, plain, plain, plain)
    share(model, 0, 2)
    blocks = find_blocks(model, None, x())
    assert [[ref.path for ref in block.linears] for block in blocks] == [[], ["layers.1.linear"], []]
    assert [dict(block.left) for block in blocks] == [{"linear": Why.SHARED}, {}, {"linear": Why.SHARED}]


def test_a_model_all_of_whose_layers_are_shared_is_refused_with_the_cause() -> None:
    model = Scripted(run, plain, plain)
    share(model, 0, 1)
    samples = [{"x": torch.randn(1, 4, 6)} for _ in range(4)]
    with pytest.raises(UnsupportedModelError, match="can be factored; 2 layers: weight in common with another layer"):
        eckart.compress(model, "svd-llm", 0.6, samples, device="cpu")


def test_layers_that_are_run_from_a_plain_list_stay() -> None:
    """What is put in the place of the child would not be run."""

    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Sequential(nn.Linear(6, 6), nn.ReLU())
            self.other = nn.Linear(6, 6)
            self.layers = [self.first]

    assert linears_in_plain_lists(Listed()) == {"first.0"}
    model = Scripted(run, lambda block, hidden: block.other(block.layers[0](hidden)), plain)
    for name, part in vars(Listed())["_modules"].items():
        model.layers[0].add_module(name, part)
    vars(model.layers[0])["layers"] = [model.get_submodule("layers.0.first")]
    first, _ = find_blocks(model, None, x())
    assert [ref.name for ref in first.linears] == ["other"]
    assert first.left == {"first.0": Why.HELD}


def test_layers_that_were_fused_are_no_such_list() -> None:
    """Each part holds its leader in a tuple."""

    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(6, 4), nn.Linear(6, 4)

    pair = Pair()
    fuse_modules(pair, ["one", "two"])
    assert not linears_in_plain_lists(pair)
