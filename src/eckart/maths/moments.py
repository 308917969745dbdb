"""Moments of the inputs of a group of linears: sums over tokens, so they add over batches and runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from eckart.errors import NonFiniteError
from eckart.maths.products import cross, gram
from eckart.maths.whitening import FLOAT32_FLOOR, FLOAT64_FLOOR


@dataclass
class ResidualMoments:
    """Sums over tokens of how far the residual streams of two models are apart where a linear's output is added.

    Attributes:
        cross: ``(r - r') X'^T``, (width, n) float64, r being the original model's and r' the compressed one's.
        sum: sum of ``r - r'``, (width,) float64.
    """

    cross: Tensor
    sum: Tensor


@dataclass
class Moments:
    """Sums over tokens of one group's inputs; ``X`` in the original model, ``X'`` in the compressed one.

    Attributes:
        second_moment: ``Z Z^T``, (n, n) float64, where Z is X' if the compressed model's are observed, else X.
        shift: ``(X - X') X'^T``, (n, n) float64, or None if only one model's inputs are observed. Summed as a
            difference of paired tokens: ``X X'^T - X' X'^T`` afterwards would lose the digits in which nearly equal
            streams differ.
        absolute: sum of ``|Z|`` over the tokens, (n,) float64.
        tokens: how many tokens were summed; the sum of their weights, if they were weighed.
        sum: sum of ``Z``, (n,) float64; only needed for what looks at means.
        original_sum: sum of ``X``, (n,) float64, where both models' inputs are observed.
        residuals: by the place of the residual stream (see :mod:`eckart.blocks.residual`).
        floor: share of the largest eigenvalue of ``second_moment`` below which one is rounding of the sums.
        original: ``X X^T``, (n, n) float64, where both are observed and it is asked for.
        runs: the same for each run of a linear whose outputs are computed in several; empty for others.
    """

    second_moment: Tensor
    shift: Tensor | None
    absolute: Tensor
    tokens: float = 0
    sum: Tensor | None = None
    original_sum: Tensor | None = None
    residuals: dict[str, ResidualMoments] = field(default_factory=dict)
    floor: float = FLOAT64_FLOOR
    original: Tensor | None = None
    runs: list[Moments] = field(default_factory=list)

    @staticmethod
    def zeros(in_features: int, *, paired: bool, device: torch.device, original: bool = False) -> Moments:
        """Return empty sums for inputs of ``in_features`` features.

        Args:
            in_features: n.
            paired: whether both models' inputs are observed.
            device: where they are.
            original: whether to sum ``X X^T``, too.
        """
        shape = (in_features, in_features)
        second = torch.zeros(shape, dtype=torch.float64, device=device)
        none = torch.zeros_like(second[0])
        return Moments(
            second,
            torch.zeros_like(second) if paired else None,
            none,
            sum=none.clone(),
            original_sum=none.clone() if paired else None,
            original=torch.zeros_like(second) if original else None,
        )

    def add(self, inputs: Tensor, original: Tensor | None = None, weights: Tensor | None = None) -> None:
        """Add a batch of tokens.

        Paired inputs of float32 are multiplied in float64. The loss of a paired target can lie in a direction that
        inputs hardly have, and its eigenvalue is the square of what they have. Inputs of 16 bits have no such
        directions but those that their own rounding made.

        Args:
            inputs: (tokens, n), the inputs in the stream that ``second_moment`` is of.
            original: (tokens, n), the inputs of the same tokens in the original model, where both are observed.
            weights: (tokens,), not negative, of each token in all sums; None for 1.
        """
        assert self.sum is not None
        tokens = len(inputs)
        # Of weighed ones the products have more digits than float32.
        short = inputs.dtype == torch.bfloat16 and weights is None
        if self.shift is None or inputs.dtype.itemsize < 4 or inputs.device.type != self.second_moment.device.type:
            self.floor = FLOAT32_FLOOR
            inputs = inputs.float()
        else:
            inputs = inputs.double()
        roots = None if weights is None else weights.to(inputs).sqrt()[:, None]
        weighed = inputs if roots is None else inputs * roots
        self.second_moment += gram(weighed, short=short).to(self.second_moment.device)
        once = inputs if roots is None else weighed * roots
        self.absolute += once.abs().sum(dim=0).to(self.absolute.device)
        self.sum += _sum_of_tokens(once, self.sum.device)
        if self.shift is not None:
            if original is None or original.shape != inputs.shape:
                found = None if original is None else tuple(original.shape)
                raise ValueError(f"paired inputs must have one shape: {tuple(inputs.shape)} and {found}")
            assert self.original_sum is not None
            short = short and original.dtype == torch.bfloat16
            original = original.to(inputs.dtype)
            difference = original - inputs
            if short:  # once more rounded as the inputs were, and smaller than they are
                difference = difference.bfloat16().float()
            self.shift += cross(difference, once, short=short).to(self.shift.device)
            original = original if roots is None else original * roots
            if self.original is not None:
                self.original += gram(original, short=short).to(self.original.device)
            original = original if roots is None else original * roots
            self.original_sum += _sum_of_tokens(original, self.original_sum.device)
        self.tokens += tokens if weights is None else float(weights.sum())

    def like(self) -> Moments:
        """Return empty sums of the same kind."""
        paired, original = self.shift is not None, self.original is not None
        device = self.second_moment.device
        return Moments.zeros(len(self.second_moment), paired=paired, device=device, original=original)

    def add_sums(self, other: Moments, factor: float = 1) -> None:
        """Add sums of the same kind over other tokens, each of which counts ``factor`` times."""
        for mine, theirs in zip(self.sums, other.sums, strict=True):
            mine += factor * theirs
        self.tokens += factor * other.tokens
        self.floor = max(self.floor, other.floor)

    def scale(self, factor: float) -> None:
        """Let each token count ``factor`` times."""
        for known in self.sums:
            known *= factor
        self.tokens *= factor

    def isotropic(self) -> Moments:
        """Return sums over as many tokens of the same mean size, in all directions alike and alike in both models."""
        alike = self.like()
        size = self.second_moment.diagonal().mean()
        alike.second_moment += size * torch.eye(len(self.second_moment)).to(self.second_moment)
        if alike.original is not None:
            alike.original += alike.second_moment
        alike.absolute += self.absolute.mean()
        alike.tokens, alike.floor = self.tokens, self.floor
        return alike

    @property
    def sums(self) -> list[Tensor]:
        """All sums but those of residual streams."""
        every = [self.second_moment, self.shift, self.absolute, self.sum, self.original_sum, self.original]
        return [known for known in every if known is not None]

    def add_residual(self, place: str, difference: Tensor, inputs: Tensor) -> None:
        """Add a batch of tokens to the sums of a residual stream.

        Args:
            place: where it is read.
            difference: ``r - r'``, (tokens, width).
            inputs: (tokens, n), of the same tokens, as for :meth:`add`.
        """
        if difference.shape[:-1] != inputs.shape[:-1]:
            raise ValueError(f"{len(difference)} tokens of a residual stream cannot be paired with {len(inputs)}")
        difference, device = difference.float(), self.second_moment.device
        products = (difference.T @ inputs.float()).to(device, torch.float64)
        total = _sum_of_tokens(difference, device)
        known = self.residuals.setdefault(place, ResidualMoments(torch.zeros_like(products), torch.zeros_like(total)))
        known.cross += products
        known.sum += total

    @property
    def mean(self) -> Tensor:
        """The mean of ``Z``, (n,) float64."""
        assert self.sum is not None
        return self.sum / max(self.tokens, 1)

    @property
    def shift_sum(self) -> Tensor:
        """The sum of ``X - X'``, (n,) float64, where both models' inputs are observed."""
        assert self.sum is not None
        assert self.original_sum is not None
        return self.original_sum - self.sum

    def check_finite(self, *paths: str) -> None:
        """Raise unless all sums are finite.

        Args:
            paths: of the linears whose inputs they are of, for the message.

        Raises:
            NonFiniteError: one is NaN or infinite.
        """
        if self.is_finite():
            return
        where = f"The input of {', '.join(paths)}"
        if self._values_are_finite():
            mean = float(self.absolute.max() / max(self.tokens, 1))
            raise NonFiniteError(
                f"{where} is finite and too large on the calibration tokens: features of {mean:.1e} on average, whose "
                f"squares are summed in float32, up to {torch.finfo(torch.float32).max:.1e}. Weights in front of it "
                "are far from those of a trained model."
            )
        raise NonFiniteError(f"{where} is NaN or infinite on the calibration tokens.")

    def _values_are_finite(self) -> bool:
        """Return whether it is products of inputs, and not inputs, that are not finite."""
        sums = [self.absolute, self.sum, self.original_sum, *(known.sum for known in self.residuals.values())]
        return all(bool(torch.isfinite(known).all()) for known in sums if known is not None)

    def is_finite(self) -> bool:
        """Return whether no sum is NaN or infinite."""
        # A NaN or an infinity in any token reaches the trace of the second moment, and in any number a sum of them.
        found = [self.second_moment, self.shift, self.original, *(known.cross for known in self.residuals.values())]
        return all(bool(torch.isfinite(known.sum())) for known in found if known is not None)


def summed(runs: Sequence[Moments]) -> Moments:
    """Return the sums over the tokens of all runs of a linear."""
    total = runs[0].like()
    for moments in runs:
        total.add_sums(moments)
    total.runs = list(runs)
    return total


def _sum_of_tokens(tokens: Tensor, device: torch.device) -> Tensor:
    # Of a batch in its own dtype, as products are summed.
    return tokens.sum(dim=0).to(device, torch.float64)


def relative_error(
    weight: Tensor,
    product: Tensor,
    moments: Moments | None,
    output_energy: float = 0.0,
    constant: Tensor | None = None,
    input_energy: float | None = None,
) -> float:
    """Return ``||T - (W' Z + c)|| / ||T||``, T the original outputs, from the moments alone.

    Args:
        weight: ``W``, (m, n) float64.
        product: ``W'``, (m, n) float64, as stored.
        moments: of the group; None for the error of the weight itself, ``||W - W'|| / ||W||``.
        output_energy: ``||W X||^2``, needed if the moments are paired.
        constant: ``c``, (m,) float64, by how much the bias has changed; None if it has not.
        input_energy: ``||W Z||^2``, if it is known.
    """
    difference = weight - product
    if moments is None:
        return float(difference.norm() / weight.norm()) if weight.any() else 0.0
    error = ((difference @ moments.second_moment) * difference).sum()
    if input_energy is None:
        input_energy = float(((weight @ moments.second_moment) * weight).sum())
    energy = torch.as_tensor(input_energy, dtype=error.dtype, device=error.device)
    if moments.shift is not None:
        # W X - W' X' = (W - W') X' + W (X - X'), and the last term's energy follows from ||W X||^2.
        shifted = weight @ moments.shift
        moved = (output_energy - energy - 2 * (shifted * weight).sum()).clamp_min(0)
        error = error + 2 * (difference * shifted).sum() + moved
        energy = torch.as_tensor(output_energy, dtype=error.dtype, device=error.device)
    if constant is not None:
        missing = difference @ moments.mean * moments.tokens
        if moments.shift is not None:
            missing = missing + weight @ moments.shift_sum
        error = error + moments.tokens * constant.square().sum() - 2 * (constant * missing).sum()
    return float((error.clamp_min(0) / energy).sqrt()) if energy > 0 else 0.0
