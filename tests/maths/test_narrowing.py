from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from eckart.maths.narrowing import (
    greedy_units,
    largest,
    mixed_directions,
    plane_scores,
    refine_directions,
    refit_columns,
    ridge_leverage,
    root_of,
    spread,
    value_directions,
)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def loss(weight: Tensor, inputs: Tensor, kept: Tensor) -> float:
    """||W h - W' h_J||^2 with the best W', on the tokens themselves."""
    target, seen = weight @ inputs, inputs[kept]
    found = torch.linalg.lstsq(seen.T, target.T).solution
    return float((target.T - seen.T @ found).square().sum())


def test_leverage_is_that_of_the_formula() -> None:
    inputs = random(6, 20)
    moment, ridge = inputs @ inputs.T / 20, 0.3
    literal = (moment @ torch.linalg.inv(moment + ridge * torch.eye(6).double())).diagonal()
    assert torch.allclose(ridge_leverage(moment, ridge), literal)
    assert torch.equal(largest(torch.tensor([0.1, 3.0, 2.0, 3.0]), 2), torch.tensor([1, 3]))


def test_leverage_of_a_singular_moment_is_finite() -> None:
    inputs = random(6, 2)
    found = ridge_leverage(inputs @ inputs.T, 1e-9)
    assert torch.isfinite(found).all()
    assert float(found.sum()) == pytest.approx(2, abs=1e-6)


def test_equal_units_lose_nothing() -> None:
    weight, unit = random(3, 2), random(1, 9)
    inputs = torch.cat([unit, unit])
    moment = inputs @ inputs.T
    for kept in (torch.tensor([0]), torch.tensor([1]), greedy_units(moment, weight @ moment, 1)):
        found = refit_columns(moment, weight @ moment, weight, kept)
        assert torch.allclose(found, weight.sum(dim=1, keepdim=True))


def test_all_units_give_the_weight_itself() -> None:
    weight, inputs = random(3, 5), random(5, 12, seed=1)
    moment = inputs @ inputs.T
    assert torch.equal(greedy_units(moment, weight @ moment, 5), torch.arange(5))
    assert torch.allclose(refit_columns(moment, weight @ moment, weight, torch.arange(5)), weight)


def test_refit_is_least_squares_on_tokens() -> None:
    weight, inputs, kept = random(4, 6), random(6, 30, seed=1), torch.tensor([1, 2, 5])
    moment = inputs @ inputs.T
    found = refit_columns(moment, weight @ moment, weight, kept)
    expected = torch.linalg.lstsq(inputs[kept].T, (weight @ inputs).T).solution.T
    assert torch.allclose(found, expected)
    left = moment - moment[:, kept] @ torch.linalg.inv(moment[kept][:, kept]) @ moment[kept]
    assert float(torch.trace(weight @ left @ weight.T)) == pytest.approx(loss(weight, inputs, kept))


def test_each_greedy_step_is_the_best_one() -> None:
    weight, inputs = random(3, 7), random(7, 40, seed=2)
    moment = inputs @ inputs.T
    chosen: list[int] = []
    for count in range(1, 6):
        others = [n for n in range(7) if n not in chosen]
        chosen.append(min(others, key=lambda n: loss(weight, inputs, torch.tensor(sorted([*chosen, n])))))
        assert greedy_units(moment, weight @ moment, count).tolist() == sorted(chosen)


def test_greedy_takes_what_is_needed_where_units_follow_from_others() -> None:
    inputs = random(2, 30)
    inputs = torch.cat([inputs, inputs.sum(dim=0, keepdim=True), torch.zeros(1, 30, dtype=torch.float64)])
    moment, weight = inputs @ inputs.T, random(3, 4)
    kept = greedy_units(moment, weight @ moment, 3)
    assert len(kept) == 3
    assert 3 not in kept.tolist()
    found = refit_columns(moment, weight @ moment, weight, kept)
    assert torch.allclose(found @ inputs[kept], weight @ inputs)


def test_scores_of_planes_are_those_of_the_formulas() -> None:
    queries, keys = random(2, 3, 4).square(), random(2, 4, seed=1).square()  # two heads of keys, three queries each
    planes = torch.tensor([[0, 2], [1, 3]])
    published = plane_scores(queries.sum(dim=1), keys, planes, averaged=False)
    averaged = plane_scores(queries.sum(dim=1), keys, planes, averaged=True)
    for head, number in itertools.product(range(2), range(2)):
        i, j = planes[number].tolist()
        terms = [q[i] * keys[head, i] + q[j] * keys[head, j] for q in queries[head]]
        assert float(published[head, number]) == pytest.approx(float(sum(terms)) ** 0.5)
        terms = [0.5 * (q[i] + q[j]) * (keys[head, i] + keys[head, j]) for q in queries[head]]
        assert float(averaged[head, number]) == pytest.approx(float(sum(terms)) ** 0.5)


def test_value_directions_of_one_head_are_those_of_the_published_decompositions() -> None:
    """Algorithm 3 of the paper, literally: two decompositions, with the root of the moment of the layer's inputs."""
    value, output, inputs, rank = random(4, 6), random(5, 4, seed=1), random(6, 40, seed=2), 2
    moment = inputs @ inputs.T / 40
    root, inverse = root_of(moment)
    p, s, qt = torch.linalg.svd(root @ value.T, full_matrices=False)
    p2, s2, q2t = torch.linalg.svd(torch.diag(s) @ qt @ output.T, full_matrices=False)
    new_value, new_output = (inverse @ p @ p2[:, :rank]).T, (torch.diag(s2[:rank]) @ q2t[:rank]).T
    encoder, decoder = value_directions(value @ moment @ value.T, output[None], rank)
    assert torch.allclose(output @ decoder @ encoder.T @ value, new_output @ new_value)
    lost = (output @ value - output @ decoder @ encoder.T @ value) @ root
    assert float(lost.square().sum()) == pytest.approx(float(s2[rank:].square().sum()))


def test_value_directions_of_heads_that_share_values_lose_the_tail() -> None:
    value, outputs, inputs = random(4, 6), random(3, 5, 4, seed=1), random(6, 40, seed=2)
    moment = inputs @ inputs.T
    encoder, decoder = value_directions(value @ moment @ value.T, outputs, 2)
    lost = torch.stack([(o @ value - o @ decoder @ encoder.T @ value) @ inputs for o in outputs]).square().sum()
    best = torch.linalg.svdvals(torch.cat(list(outputs)) @ value @ inputs)[2:].square().sum()
    assert float(lost) == pytest.approx(float(best))


def test_all_directions_lose_nothing() -> None:
    moment, outputs = random(4, 30) @ random(4, 30).T, random(2, 5, 4, seed=1)
    encoder, decoder = value_directions(moment, outputs, 4)
    assert torch.allclose(outputs @ decoder @ encoder.T, outputs)
    directions = mixed_directions(moment, outputs, 4)
    assert torch.allclose(directions @ directions.T, torch.eye(4).double())


def test_mixed_directions_are_best_for_heads_that_do_not_correlate() -> None:
    outputs, inputs = random(1, 5, 4), random(4, 50, seed=1)
    moment = inputs @ inputs.T
    directions = mixed_directions(moment, outputs, 2)
    seen = directions.T @ inputs
    found = torch.linalg.lstsq(seen.T, (outputs[0] @ inputs).T).solution
    lost = (outputs[0] @ inputs - found.T @ seen).square().sum()
    best = torch.linalg.svdvals(outputs[0] @ inputs)[2:].square().sum()
    assert float(lost) == pytest.approx(float(best))


def test_no_sweep_is_worse_than_the_one_before() -> None:
    heads, size, rank = [0, 0, 1, 1], 4, 2
    mixing = random(16, 16, seed=3)
    inputs, weight = mixing @ random(16, 100, seed=1), random(6, 16, seed=2)
    moment, cross = inputs @ inputs.T, weight @ inputs @ inputs.T
    apart = weight.unflatten(1, (4, size)).movedim(1, 0)
    blocks = [moment[size * h : size * h + size, size * h : size * h + size] for h in range(4)]
    directions = torch.stack(
        [mixed_directions((blocks[2 * a] + blocks[2 * a + 1]) / 2, apart[2 * a : 2 * a + 2], rank) for a in range(2)]
    )

    def fitted(directions: Tensor) -> tuple[Tensor, float]:
        basis = spread(directions, heads)
        found = torch.linalg.lstsq((basis.T @ inputs).T, (weight @ inputs).T).solution.T
        return found, float((weight @ inputs - found @ basis.T @ inputs).square().sum())

    projection, before = fitted(directions)
    start = before
    for _ in range(3):
        directions = refine_directions(moment, cross, projection, directions, heads, 20)
        between = float((weight @ inputs - projection @ spread(directions, heads).T @ inputs).square().sum())
        assert between <= before * (1 + 1e-9)
        projection, after = fitted(directions)
        assert after <= between * (1 + 1e-9)
        before = after
    assert before < 0.99 * start


def test_directions_of_nothing_are_finite() -> None:
    zeros = torch.zeros(4, 4, dtype=torch.float64)
    for found in (*value_directions(zeros, random(1, 5, 4), 2), mixed_directions(zeros, random(1, 5, 4), 2)):
        assert torch.isfinite(found).all()
