"""Published rules written down word by word in float64, from their formulas: no code of Eckart and none of the authors.

Weights are (m, n), inputs are columns: X (n, tokens) in the original model, X' in the partly compressed one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import numpy
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

# Linears of a block that are handed the same tensor, in the order in which they run.
GROUPS = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)


def groups(model: PreTrainedModel) -> Iterator[list[str]]:
    """Yield the paths of each group of linears, in the order in which they run."""
    for index in range(model.config.num_hidden_layers):
        for group in GROUPS:
            yield [f"model.layers.{index}.{name}" for name in group]


def paths(model: PreTrainedModel) -> list[str]:
    """Return the paths of all linears of the blocks."""
    return [path for group in groups(model) for path in group]


def double(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy in float64."""
    return copy.deepcopy(model).double().requires_grad_(False)


def weights(model: PreTrainedModel) -> dict[str, Tensor]:
    """Return the weight of each linear, by path."""
    return {path: model.get_submodule(path).weight.detach() for path in paths(model)}


def inputs(model: PreTrainedModel, tokens: Tensor) -> dict[str, Tensor]:
    """Return the inputs of each linear, (n, tokens), by path."""
    seen: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(path).register_forward_pre_hook(
            lambda _, args, path=path: seen.__setitem__(path, args[0].detach().flatten(0, -2).T)
        )
        for path in paths(model)
    ]
    with torch.no_grad():
        model(input_ids=tokens, use_cache=False)
    for handle in handles:
        handle.remove()
    return seen


def loss(model: PreTrainedModel, tokens: Tensor) -> Tensor:
    """Return the mean next-token cross-entropy."""
    logits = model(input_ids=tokens, use_cache=False).logits[:, :-1].flatten(0, 1)
    return functional.cross_entropy(logits, tokens[:, 1:].flatten())


def uniform_rank(weight: Tensor, keep: float) -> int:
    """Return ``floor(keep m n / (m + n))``."""
    m, n = weight.shape
    return int(keep * m * n / (m + n))


def break_even(weight: Tensor) -> int:
    """Return the largest rank whose factors hold fewer numbers than the weight."""
    m, n = weight.shape
    return (m * n - 1) // (m + n)


def factors(target: Tensor, root: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return ``U sqrt(s)`` and ``sqrt(s) V^T R^-1`` of ``SVD_r(M)``, M being the target and R triangular."""
    u, s, vt = torch.linalg.svd(target, full_matrices=False)
    right = torch.linalg.solve_triangular(root, vt[:rank], left=False, upper=False)
    return u[:, :rank] * s[:rank].sqrt(), s[:rank].sqrt()[:, None] * right


def input_aware(weight: Tensor, x: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """SVD-LLM's whitening and AA-SVD's objective 2: ``SVD_r(W R) R^-1`` with ``R R^T = X X^T / tokens``, R lower."""
    root = torch.linalg.cholesky(x @ x.T / x.shape[1])
    return factors(weight @ root, root, rank)


def paired(weight: Tensor, x: Tensor, z: Tensor, rank: int, share: float) -> tuple[Tensor, Tensor]:
    """AA-SVD's objective 3 (share 0) and 4 (share 1): ``SVD_r(W (a C + (1 - a) S) R^-T) R^-1``, C = X X'^T."""
    second, cross = z @ z.T / z.shape[1], x @ z.T / z.shape[1]
    root = torch.linalg.cholesky(second)
    mixed = weight @ (share * cross + (1 - share) * second)
    return factors(torch.linalg.solve_triangular(root, mixed.T, upper=False).T, root, rank)


def saes(weight: Tensor, x: Tensor, z: Tensor, rank: int, lowest: float = 0.25, highest: float = 0.75) -> Tensor:
    """SAES-SVD: the blend by ACES, with the symmetric inverse root and with explicit projections."""
    second, delta = z @ z.T, (x - z) @ z.T
    values, vectors = torch.linalg.eigh(second)
    whiten = vectors @ torch.diag(values.rsqrt()) @ vectors.T
    start, direction = weight @ second @ whiten, weight @ delta @ whiten
    u, _, vt = torch.linalg.svd(start, full_matrices=False)
    left = torch.eye(len(u)).to(u) - u[:, :rank] @ u[:, :rank].T
    right = torch.eye(vt.shape[1]).to(u) - vt[:rank].T @ vt[:rank]
    tail, tail_direction = left @ start @ right, left @ direction @ right
    a, b, c = _products(tail, tail_direction)
    d, e, f = _products(start, direction)
    # Where the slope of (a + 2 b t + c t^2) / (d + 2 e t + f t^2) is zero.
    roots = numpy.roots([c * e - b * f, c * d - a * f, b * d - a * e])
    candidates = [float(root.real) for root in roots if root.imag == 0 and lowest < root.real < highest]
    beta = min(
        [lowest, highest, *candidates],
        key=lambda t: (a + 2 * b * t + c * t * t) / (d + 2 * e * t + f * t * t),
    )
    u, s, vt = torch.linalg.svd(start + beta * direction, full_matrices=False)
    result: Tensor = (u[:, :rank] * s[:rank]) @ vt[:rank] @ whiten
    return result


def _products(one: Tensor, two: Tensor) -> tuple[float, float, float]:
    return float(one.square().sum()), float((one * two).sum()), float(two.square().sum())


def scaled(weight: Tensor, x: Tensor, rank: int) -> Tensor:
    """ASVD: ``SVD_r(W diag(s)) diag(1/s)`` with ``s = sqrt(mean |x|) + 1e-6``."""
    scale = x.abs().mean(dim=1).sqrt() + 1e-6
    u, s, vt = torch.linalg.svd(weight * scale, full_matrices=False)
    result: Tensor = (u[:, :rank] * s[:rank]) @ vt[:rank] / scale
    return result


class Product(nn.Module):
    """What takes the place of a linear: a weight that is known."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., n) to (..., m)."""
        return x @ self.weight.T


class Factors(nn.Module):
    """What takes the place of a linear: two factors that can be trained."""

    def __init__(self, second: Tensor, first: Tensor) -> None:
        super().__init__()
        self.second, self.first = nn.Parameter(second.clone()), nn.Parameter(first.clone())

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., n) to (..., m)."""
        return x @ self.first.T @ self.second.T

    @property
    def weight(self) -> Tensor:
        """Their product."""
        return self.second @ self.first


def walk(
    model: PreTrainedModel,
    tokens: Tensor,
    solve: Callable[[Tensor, Tensor, Tensor], nn.Module],
    after_block: Callable[[int, PreTrainedModel], None] = lambda index, compressed: None,
) -> PreTrainedModel:
    """Return a compressed copy, group by group in order, each with the inputs that the copy has by then.

    Args:
        model: in float64.
        tokens: (samples, length).
        solve: gives what takes the place of a linear, from its weight, X and X'.
        after_block: is called with each block's number and the copy when the block's linears are replaced.
    """
    compressed, original = copy.deepcopy(model), inputs(model, tokens)
    for number, group in enumerate(groups(model)):
        here = inputs(compressed, tokens)
        for path in group:
            compressed.set_submodule(path, solve(model.get_submodule(path).weight, original[path], here[path]))
        if (number + 1) % len(GROUPS) == 0:
            after_block(number // len(GROUPS), compressed)
    return compressed
