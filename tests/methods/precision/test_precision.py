from __future__ import annotations

import pytest

import eckart
from eckart.errors import RecipeError
from eckart.methods.precision import Bits4, Bits8, Bits16
from eckart.methods.recipes.loader import load_recipe


def test_bytes_count_scales() -> None:
    assert Bits16().bytes(10, 33) == 2 * 330
    assert Bits8().bytes(10, 33) == 330 + 2 * 10
    assert Bits8(group=32).bytes(10, 33) == 330 + 2 * 10 * 2
    assert Bits4(group=32).bytes(10, 33) == 10 * 17 + 2 * 10 * 2
    assert Bits4(group=None).bytes(10, 33) == 10 * 17 + 2 * 10


def test_what_is_fed_back_is_a_choice() -> None:
    assert not Bits16().feeds_back
    assert Bits8().feeds_back
    assert not load_recipe("svd-llm", ["precision=4-bit", "precision.feedback=false"]).precision.feeds_back


@pytest.mark.parametrize(("override", "message"), [("precision=3-bit", "8-bit"), ("precision.group=0", "precision")])
def test_a_precision_that_cannot_be_is_refused(override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe("svd-llm", ["precision=8-bit", override] if "group" in override else [override])


def test_all_linears_take_half_or_a_quarter_if_none_is_factored(tokens) -> None:
    from tests.conftest import make_model

    for precision, share in (("8-bit", 0.5), ("4-bit", 0.25)):
        model = make_model("llama")
        report = eckart.compress(model, "svd-llm", 1.0, tokens, overrides=[f"precision={precision}"])
        assert report.ranks == {}
        # Scales weigh much in so small a model.
        assert share < report.keep < share + 0.1
