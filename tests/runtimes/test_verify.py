"""How far two outputs are apart, and when that is too far."""

from __future__ import annotations

import math

import pytest
import torch
from tests.conftest import make_model
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput

from eckart.errors import ExportError
from eckart.runtimes.samples import samples_for
from eckart.runtimes.verify import TOLERANCES, Difference, check, compare_models, difference


def test_logits_count_alone_where_there_are_some() -> None:
    first = CausalLMOutput(logits=torch.tensor([[[1.0, -4.0]]]), hidden_states=(torch.ones(1),))
    second = CausalLMOutput(logits=torch.tensor([[[1.5, -4.0]]]), hidden_states=(torch.zeros(1),))
    assert difference(first, second) == Difference(0.5, 4.0)


def test_other_outputs_are_compared_as_a_whole() -> None:
    first, second = BaseModelOutput(torch.ones(1, 2, 2)), BaseModelOutput(torch.full((1, 2, 2), 1.25))
    assert difference(first, second) == Difference(0.25, 1.0)
    with pytest.raises(ExportError, match=r"last_hidden_state \(1, 1, 2\); expected \(1, 2, 2\)"):
        difference(first, BaseModelOutput(torch.ones(1, 1, 2)))
    with pytest.raises(ExportError, match="returns no last_hidden_state"):
        difference(first, CausalLMOutput(logits=torch.ones(1)))


def test_padding_does_not_count() -> None:
    first, second = torch.zeros(1, 2, 1), torch.tensor([[[9.0], [0.5]]])
    assert difference(first, second, torch.tensor([[0, 1]])).largest_difference == 0.5
    assert difference(first[:, 1:], second[:, 1:], torch.tensor([[1, 0, 1]])).largest_difference == 0.5
    assert difference(first, second).largest_difference == 9


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_what_is_too_far_is_an_error(dtype: torch.dtype) -> None:
    share = TOLERANCES[dtype]
    assert check(Difference(0.9 * share * 7, 7.0), dtype) == share
    for apart in (1.1 * share * 7, math.inf, math.nan):
        with pytest.raises(ExportError, match="computes something else"):
            check(Difference(apart, 7.0), dtype)


def test_no_number_is_infinitely_far() -> None:
    assert difference(torch.ones(2), torch.tensor([1.0, math.nan])).largest_difference == math.inf


def test_models_in_memory() -> None:
    model, other = make_model("llama"), make_model("llama")
    samples = samples_for(model, None)
    assert compare_models(model, other, samples).largest_difference == 0
    with torch.no_grad():
        other.lm_head.weight.mul_(1.5)
    found = compare_models(model, other, samples)
    assert found.largest_difference == pytest.approx(0.5 * found.largest)
