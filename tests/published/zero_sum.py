"""ZS-SVD word by word in float64, without its jitter and with the exact number of numbers that a step frees."""

from __future__ import annotations

import copy

import torch
from tests.published import literal
from torch import Tensor
from transformers import PreTrainedModel

Ranks = dict[str, int | None]


def gradients(model: PreTrainedModel, tokens: Tensor) -> dict[str, Tensor]:
    """Return the gradient of the mean loss on one sequence at the weight of each linear."""
    for path in literal.paths(model):
        model.get_submodule(path).weight.requires_grad_(True)
    found = torch.autograd.grad(
        literal.loss(model, tokens[:1]), [model.get_submodule(path).weight for path in literal.paths(model)]
    )
    return dict(zip(literal.paths(model), found, strict=True))


def decompositions(model: PreTrainedModel, tokens: Tensor) -> dict[str, tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Return U, s and V^T of ``W R`` for each linear, and R, the Cholesky factor of ``X X^T / tokens``."""
    found = {}
    for path, x in literal.inputs(model, tokens).items():
        root = torch.linalg.cholesky(x @ x.T / x.shape[1])
        found[path] = (*torch.linalg.svd(model.get_submodule(path).weight.detach() @ root, full_matrices=False), root)
    return found


def select(model: PreTrainedModel, tokens: Tensor, keep: float) -> Ranks:
    """Return the ranks by the running sum: one look at all candidates a step."""
    weights, slopes = literal.weights(model), gradients(model, tokens)
    changes = {}
    for path, (u, s, vt, root) in decompositions(model, tokens).items():
        # G R^-T is the gradient at W R.
        whitened = torch.linalg.solve_triangular(root, slopes[path].T, upper=False).T
        changes[path] = (-s * ((u.T @ whitened) * vt).sum(dim=1)).tolist()
    ranks = {path: min(weight.shape) for path, weight in weights.items()}

    def numbers(path: str, rank: int) -> int:
        m, n = weights[path].shape
        return min(m * n, rank * (m + n))

    total = sum(weight.numel() for weight in weights.values())
    removed, running = 0, 0.0
    while removed < total - keep * total:
        tails = {path: changes[path][rank - 1] for path, rank in ranks.items() if rank > 1}
        rising = {path: change for path, change in tails.items() if change >= 0}
        falling = {path: change for path, change in tails.items() if change < 0}
        pool = (rising or falling) if running <= 0 else (falling or rising)
        path = min(pool, key=lambda candidate: abs(pool[candidate]))
        removed += numbers(path, ranks[path]) - numbers(path, ranks[path] - 1)
        running += pool[path]
        ranks[path] -= 1
    return {path: rank if rank <= literal.break_even(weights[path]) else None for path, rank in ranks.items()}


def truncated(model: PreTrainedModel, tokens: Tensor, ranks: Ranks) -> dict[str, Tensor]:
    """Return the weights of those linears that have a rank, truncated."""
    found = {}
    for path, (u, s, vt, root) in decompositions(model, tokens).items():
        rank = ranks[path]
        if rank is not None:
            right = torch.linalg.solve_triangular(root, vt[:rank], left=False, upper=False)
            found[path] = (u[:, :rank] * s[:rank]) @ right
    return found


def one_shot(model: PreTrainedModel, tokens: Tensor, keep: float) -> Ranks:
    """Return the ranks of one selection."""
    return select(copy.deepcopy(model), tokens, keep)


def staged(model: PreTrainedModel, tokens: Tensor, keep: float, stages: int) -> tuple[Ranks, dict[str, Tensor]]:
    """Return ranks and weights after some selections with corrections between them.

    A correction moves each truncated weight W' along the gradient g there by ``<g, W - W'> / <g, g>``.
    """
    teacher = {path: weight.clone() for path, weight in literal.weights(model).items()}
    current = copy.deepcopy(model)
    for number in range(stages):
        ranks = select(current, tokens, keep)
        made = {**teacher, **truncated(current, tokens, ranks)}
        if number == stages - 1:
            return ranks, made
        for path, weight in made.items():
            current.get_submodule(path).weight.data = weight.clone()
        for path, gradient in gradients(current, tokens).items():
            missing = teacher[path] - made[path]
            current.get_submodule(path).weight.data += (gradient * missing).sum() / gradient.square().sum() * gradient
    raise ValueError("stages is at least 1")
