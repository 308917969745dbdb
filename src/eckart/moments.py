"""Second moments of the inputs of a group of linears: sums over tokens, so they add over batches and runs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Moments:
    """Sums over tokens of one group's inputs; ``X`` in the original model, ``X'`` in the compressed one.

    Attributes:
        second: ``Z Z^T``, (n, n) float64, where Z is X' if the compressed stream is observed, else X.
        shift: ``(X - X') X'^T``, (n, n) float64, or None if only one stream is observed. Summed as a difference of
            paired tokens: ``X X'^T - X' X'^T`` afterwards would lose the digits in which nearly equal streams differ.
        absolute: sum of ``|Z|`` over the tokens, (n,) float64.
        tokens: how many tokens were summed.
    """

    second: Tensor
    shift: Tensor | None
    absolute: Tensor
    tokens: int = 0

    @staticmethod
    def zeros(in_features: int, *, paired: bool, device: torch.device) -> Moments:
        """Return empty sums for inputs of ``in_features`` features; ``paired`` if both streams are observed."""
        shape = (in_features, in_features)
        second = torch.zeros(shape, dtype=torch.float64, device=device)
        return Moments(second, torch.zeros_like(second) if paired else None, torch.zeros_like(second[0]))

    def add(self, inputs: Tensor, original: Tensor | None = None) -> None:
        """Add a batch of tokens.

        Args:
            inputs: (tokens, n), the inputs in the stream that ``second`` is of.
            original: (tokens, n), the inputs of the same tokens in the original model, where both are observed.
        """
        inputs = inputs.float()
        self.second += (inputs.T @ inputs).to(self.second.device)
        self.absolute += inputs.abs().sum(dim=0).to(self.absolute.device)
        if self.shift is not None:
            if original is None or original.shape != inputs.shape:
                found = None if original is None else tuple(original.shape)
                raise ValueError(f"paired inputs must have one shape: {tuple(inputs.shape)} and {found}")
            self.shift += ((original.float() - inputs).T @ inputs).to(self.shift.device)
        self.tokens += len(inputs)

    def is_finite(self) -> bool:
        """Return whether no sum is NaN or infinite."""
        # A NaN or an infinity in any token reaches the trace of the second moment.
        finite = torch.isfinite(self.second).all()
        if self.shift is not None:
            finite &= torch.isfinite(self.shift).all()
        return bool(finite)


def relative_error(weight: Tensor, product: Tensor, moments: Moments | None, output_energy: float = 0.0) -> float:
    """Return ``||T - W' Z|| / ||T||``, T the original outputs, from the moments alone.

    Args:
        weight: ``W``, (m, n) float64.
        product: ``W'``, (m, n) float64, as stored.
        moments: of the group; None for the error of the weight itself, ``||W - W'|| / ||W||``.
        output_energy: ``||W X||^2``, needed if the moments are paired.
    """
    difference = weight - product
    if moments is None:
        return float(difference.norm() / weight.norm()) if weight.any() else 0.0
    error = ((difference @ moments.second) * difference).sum()
    energy = ((weight @ moments.second) * weight).sum()
    if moments.shift is not None:
        # W X - W' X' = (W - W') X' + W (X - X'), and the last term's energy follows from ||W X||^2.
        shifted = weight @ moments.shift
        moved = (output_energy - energy - 2 * (shifted * weight).sum()).clamp_min(0)
        error = error + 2 * (difference * shifted).sum() + moved
        energy = torch.as_tensor(output_energy, dtype=error.dtype, device=error.device)
    return float((error.clamp_min(0) / energy).sqrt()) if energy > 0 else 0.0
