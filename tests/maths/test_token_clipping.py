"""Lengths of gradients, against a loop over tokens."""

from __future__ import annotations

import torch

from eckart.maths.token_clipping import SMALLEST, clip_lengths, trimmed


def test_lengths_are_clipped_into_a_range_about_their_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(3, 7, 4, generator=generator) * torch.randn(3, 7, 1, generator=generator).exp() ** 4
    gradients[0, 2] = 0
    gradients[1, 3] = 1e-11  # as long as nothing
    found = clip_lengths(gradients, 0.5, 2.0)
    for sequence, clipped in zip(gradients, found, strict=True):
        lengths = [float(row.norm()) for row in sequence]
        known = [length for length in lengths if length >= SMALLEST]
        mean = sum(known) / len(known)
        for row, length, other in zip(sequence, lengths, clipped, strict=True):
            expected = row if length < SMALLEST else row / length * min(max(length, 0.5 * mean), 2 * mean)
            torch.testing.assert_close(other, expected)
    assert not torch.equal(found, gradients)


def test_without_gradients_nothing_changes() -> None:
    assert torch.equal(clip_lengths(torch.zeros(2, 3, 4), 0.1, 10), torch.zeros(2, 3, 4))
    assert clip_lengths(torch.zeros(1, 0, 4), 0.1, 10).shape == (1, 0, 4)


def test_both_ends_of_a_sequence_are_left_out() -> None:
    rows = torch.arange(17.0)[None, :, None].expand(2, 17, 3)
    assert trimmed(rows, 0.125)[1, :, 0].tolist() == list(range(2, 15))
    assert trimmed(rows, 0.0).shape == rows.shape
    assert trimmed(rows[:, :7], 0.125).shape == (2, 7, 3)
