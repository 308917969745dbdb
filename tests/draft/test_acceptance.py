from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import make_model

import eckart
from eckart.draft.acceptance import Acceptance
from eckart.evaluate.speed.passes import run_once

PROMPTS = torch.randint(256, (3, 12), generator=torch.Generator().manual_seed(3))


def rounds_of(row: list[bool], proposals: int) -> int:
    """Count rounds one token at a time, as a draft and its model take turns."""
    rounds, place = 0, 0
    while place < len(row):
        rounds += 1
        for _ in range(proposals):
            if place < len(row) and row[place]:
                place += 1
            else:
                break
        place += 1  # the model's own token
    return rounds


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.integers(1, 9))
def test_rounds_are_those_of_taking_turns(row: list[bool], proposals: int) -> None:
    found = Acceptance(torch.tensor([row, row])).tokens_per_round(proposals)
    assert found == pytest.approx(len(row) / rounds_of(row, proposals))


def test_a_model_accepts_all_that_it_proposes_itself() -> None:
    model = make_model("llama")
    acceptance = Acceptance.of(model, PROMPTS, run_once(model, PROMPTS, 20).tokens)
    assert acceptance.share == 1
    assert acceptance.tokens_per_round(4) == 5


def test_what_is_accepted_is_what_a_draft_says_behind_accepted_tokens() -> None:
    model, draft = make_model("llama"), make_model("llama")
    eckart.compress(draft, "int4", 0.4, device="cpu")
    written = run_once(model, PROMPTS, 10).tokens
    acceptance = Acceptance.of(draft, PROMPTS, written)
    for text in range(3):
        for place in range(10):
            known = torch.cat([PROMPTS[text], written[text, :place]])
            said = draft(input_ids=known[None]).logits[0, -1].argmax()
            assert bool(acceptance.agrees[text, place]) == bool(said == written[text, place])
    assert 0 < acceptance.share < 1
