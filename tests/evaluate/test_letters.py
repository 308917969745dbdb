from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from eckart.evaluate.letters import edit_distance, letter_errors


@pytest.mark.parametrize(
    ("found", "expected", "changes"),
    [("", "", 0), ("abc", "", 3), ("", "abc", 3), ("abc", "abc", 0), ("kitten", "sitting", 3), ("ab", "ba", 2)],
)
def test_the_fewest_changes(found: str, expected: str, changes: int) -> None:
    assert edit_distance(list(map(ord, found)), list(map(ord, expected))) == changes


def test_frames_are_heard_as_letters() -> None:
    frames = torch.tensor([0, 3, 3, 0, 3, 5, 5, 0])  # 3, 3 with a blank between them, 5
    logits = functional.one_hot(frames, 7).float()
    assert letter_errors(logits, torch.tensor([3, 3, 5]), 0) == 0
    assert letter_errors(logits, torch.tensor([3, 5]), 0) == 1
    assert letter_errors(logits, torch.tensor([3, 3, 6, 6]), 0) == 2
