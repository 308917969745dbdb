from __future__ import annotations

import pytest
from pydantic import ValidationError
from tests.conftest import make_model
from torch import Tensor

import eckart
from eckart.errors import RecipeError
from eckart.maths.quantization import QuantScheme
from eckart.methods.precision import Bits2, Bits3, Bits4, Bits8
from eckart.methods.recipes.loader import load_recipe


def test_scales_are_those_of_a_row_or_of_32_numbers_by_default() -> None:
    assert Bits8().scheme == QuantScheme(8, None)
    assert Bits4().scheme == QuantScheme(4, 32)
    assert Bits4(group=16).scheme == QuantScheme(4, 16)
    assert (Bits3().scheme, Bits2().scheme) == (QuantScheme(3, 64), QuantScheme(2, 64))


def test_what_is_not_said_is_not_written() -> None:
    """Files of before there was a choice stay the same to the byte."""
    assert Bits4().model_dump() == {"name": "4-bit", "group": 32, "feedback": True}
    said = Bits4(output_feedback=True, descent=2)
    assert Bits4.model_validate(said.model_dump()) == said
    assert (said.two_sided, said.sweeps) == (True, 2)
    without = Bits4(feedback=False, output_feedback=True, descent=2)
    assert (without.two_sided, without.sweeps) == (False, 0)
    with pytest.raises(ValidationError):
        Bits3(descent=-1)


def test_what_is_fed_back_is_a_choice() -> None:
    assert Bits8().feeds_back
    assert not Bits4(feedback=False).feeds_back
    assert not load_recipe("svd-llm", ["precision=4-bit", "precision.feedback=false"]).precision.feeds_back


@pytest.mark.parametrize(("override", "message"), [("precision=7-bit", "8-bit"), ("precision.group=0", "precision")])
def test_a_precision_that_cannot_be_is_refused(override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe("svd-llm", ["precision=8-bit", override] if "group" in override else [override])
    with pytest.raises(ValidationError):
        Bits8(group=-1)


@pytest.mark.parametrize(("precision", "share"), [("8-bit", 0.5), ("4-bit", 0.25), ("3-bit", 0.1875), ("2-bit", 0.125)])
def test_all_linears_take_half_or_a_quarter_if_none_is_factored(precision: str, share: float, tokens: Tensor) -> None:
    report = eckart.compress(make_model("llama"), "svd-llm", 1.0, tokens, overrides=[f"precision={precision}"])
    assert report.ranks == {}
    # Scales weigh much in so small a model.
    assert share < report.keep < share + 0.1
