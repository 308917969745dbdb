from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import CONFIGS
from tests.layers.helpers import from_factors
from torch import nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, PreTrainedModel

import eckart
from eckart.layers import FactoredLinear, LowRankLinear, PivotedLinear
from eckart.layers.joined import join_first_factors

IDS = torch.arange(2 * 12).reshape(2, 12)


def factored(name: str = "llama", kind: type[FactoredLinear] = LowRankLinear) -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[name]()).eval()
    for parent in list(model.modules()):
        for child_name, child in list(parent.named_children()):
            if type(child) is nn.Linear and child_name.endswith("_proj"):
                rank = min(child.weight.shape) // 3
                second, first = torch.randn(len(child.weight), rank), torch.randn(rank, child.in_features) / 8
                setattr(parent, child_name, from_factors(kind, child, second, first))
    return model


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the products of linear layers."""
    counts = [0]
    plain = functional.linear

    def counted(*args: Any) -> torch.Tensor:
        counts[0] += 1
        return plain(*args)

    monkeypatch.setattr("torch.nn.functional.linear", counted)
    return counts


@pytest.mark.parametrize("kind", [LowRankLinear, PivotedLinear])
@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma3"])
def test_the_same_numbers_from_fewer_products(name: str, kind: type[FactoredLinear], products: list[int]) -> None:
    model = factored(name, kind)
    with torch.no_grad():
        expected = model(IDS).logits
        separate, products[0] = products[0], 0
        layers = model.config.num_hidden_layers
        join_first_factors(model)
        assert torch.equal(model(IDS).logits, expected)
        assert products[0] == separate
        for _ in range(2):
            products[0] = 0
            torch.testing.assert_close(model(IDS).logits, expected)
            assert products[0] == separate - 3 * layers  # q, k and v; gate and up


def test_generation_is_the_same() -> None:
    model = factored()
    options: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    expected = model.generate(IDS, **options)
    join_first_factors(model)
    assert torch.equal(model.generate(IDS, **options), expected)


def test_gradients_reach_each_weight() -> None:
    model = factored()
    model(IDS, labels=IDS).loss.backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    join_first_factors(model)
    with torch.no_grad():
        model(IDS), model(IDS)
    model.zero_grad()
    model(IDS, labels=IDS).loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name])


def test_a_step_of_training_changes_the_joined_product() -> None:
    model = factored()
    join_first_factors(model)
    with torch.no_grad():
        model(IDS), model(IDS)
        for parameter in model.parameters():
            parameter.mul_(1.1)
        found = model(IDS).logits
    again = factored()
    again.load_state_dict(model.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(found, again(IDS).logits)


def test_a_moved_model_runs_separate_products(products: list[int]) -> None:
    model = factored()
    with torch.no_grad():
        model(IDS)
        separate = products[0]
        join_first_factors(model)
        model(IDS), model(IDS)
        model.double()
        products[0] = 0
        found = model(IDS).logits
    assert products[0] == separate
    with torch.no_grad():
        torch.testing.assert_close(found, factored().double()(IDS).logits)


def test_only_those_that_share_an_input_are_joined() -> None:
    class Cross(nn.Module):
        q: nn.Module
        k: nn.Module
        v: nn.Module

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            for name in ("q", "k", "v"):
                linear = nn.Linear(6, 6, bias=False)
                setattr(self, name, from_factors(LowRankLinear, linear, torch.randn(6, 2), torch.randn(2, 6)))

        def forward(self, own: torch.Tensor, other: torch.Tensor) -> list[torch.Tensor]:
            return [self.q(own), self.k(other), self.v(other)]

    model = Cross()
    own, other = torch.randn(3, 6), torch.randn(4, 6)
    with torch.no_grad():
        expected = model(own, other)
        join_first_factors(model)
        for _ in range(3):
            torch.testing.assert_close(model(own, other), expected)
        # An input that was written to in between is another one, and so is one that comes again.
        first = model.k(other)
        other.mul_(2)
        torch.testing.assert_close(model.v(other), 2 * expected[2])
        torch.testing.assert_close(model.k(other), 2 * first)
        torch.testing.assert_close(model.k(other), 2 * first)


def test_a_copy_computes_the_same() -> None:
    model = factored()
    names = list(model.state_dict())
    join_first_factors(model)
    with torch.no_grad():
        expected = model(IDS).logits
        model(IDS)
        torch.testing.assert_close(copy.deepcopy(model)(IDS).logits, expected)
    assert list(model.state_dict()) == names


def test_an_artefact_is_loaded_joined_and_saved_again(llama: PreTrainedModel, tmp_path: Path) -> None:
    report = eckart.compress(llama, "svd", 0.6)
    eckart.save(llama, report, tmp_path / "small")
    model = eckart.load_model(tmp_path / "small")
    join_first_factors(model)
    with torch.no_grad():
        expected = model(IDS).logits
        model(IDS)
    eckart.save(model, tmp_path / "again")
    with torch.no_grad():
        torch.testing.assert_close(eckart.load_model(tmp_path / "again")(IDS).logits, expected)
