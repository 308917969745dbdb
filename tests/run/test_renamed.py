"""Older names of arguments."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedModel

import eckart
from eckart.run.renamed import renamed


@renamed(before="now")
def double(number: int = 0, *, now: int = 1) -> int:
    """Double."""
    return 2 * (number + now)


def test_both_names_are_one_argument() -> None:
    assert double(3, now=4) == double(3, before=4) == 14  # type: ignore[call-arg]
    assert double(3) == 8
    assert double.__doc__ == "Double."


def test_not_both_at_once() -> None:
    with pytest.raises(TypeError, match="'before' is the older name"):
        double(now=1, before=1)  # type: ignore[call-arg]


def test_what_is_unknown_stays_unknown() -> None:
    with pytest.raises(TypeError, match="unexpected keyword"):
        double(then=1)  # type: ignore[call-arg]


def test_an_observer_of_before_hears_all_that_a_callback_does(llama: PreTrainedModel, tokens: torch.Tensor) -> None:
    class Heard(eckart.Observer):
        def __init__(self) -> None:
            self.measured: list[int] = []
            self.blocks: list[int] = []

        def on_profile(self, done: int, total: int) -> None:
            self.measured.append(done)

        def on_block(self, finished: int) -> None:
            self.blocks.append(finished)

    heard = Heard()
    eckart.compress(llama, "io-svd", 0.6, tokens, observer=heard)  # type: ignore[call-arg]
    assert heard.measured == heard.blocks == [1, 2, 3]
