"""Atoms and sparsities of each layer, against all choices tried out, and through the folder."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.conftest import Stop, contents, make_model

import eckart
from eckart.errors import CheckpointError, EckartError, InterruptedRun, RecipeError
from eckart.layers import DictionaryLinear, MaskedLinear
from eckart.maths.whitening import whiten
from eckart.methods.allocation import Budgets, Knapsack, LayerStatistics
from eckart.methods.allocation.knapsack import Sized
from eckart.methods.layout import Layout
from eckart.methods.precision import Bits16
from eckart.methods.recipes.loader import load_recipe
from eckart.methods.structure import Dictionary
from eckart.methods.structure.fitting import Fit
from eckart.methods.targets import Size
from eckart.run.compress_checkpoint import compress_checkpoint

ROCKET = Dictionary(method="rocket", refits=0)
LAYOUT = Layout(ROCKET)
PUBLISHED = Knapsack(multiple=1, fill_budget=False)
UNCAPPED = Knapsack(multiple=1, fill_budget=False, caps=())
SHAPES = {"a": (64, 48), "b": (48, 64), "c": (64, 64)}
FEW = ["allocation.shares=[0.3,0.5,0.7,0.9]", "allocation.sparsities=[1,1.5,2,3]"]


def bytes_of(shape: tuple[int, int], rank: int | None, sparsity: float) -> int:
    """The formula: atoms, the numbers that are there, and a bit for each place of a row."""
    m, n = shape
    if rank is None:
        return 2 * m * n
    return 2 * (rank * n + m * max(1, math.floor(rank / sparsity + 1e-9))) + m * math.ceil(rank / 8)


def sizes(seed: int, shape: tuple[int, int]) -> list[Sized]:
    """Random sizes of a linear at four shares, errors falling."""
    generator = torch.Generator().manual_seed(seed)
    errors = torch.rand(4, generator=generator).sort(descending=True).values.tolist()
    found = []
    for share, error in zip((0.3, 0.5, 0.7, 0.9), errors, strict=True):
        sparsity = (1.0, 1.5, 2.0, 3.0)[int(torch.randint(4, (1,), generator=generator))]
        rank = max(r for r in range(1, min(shape) + 1) if bytes_of(shape, r, sparsity) <= share * 2 * math.prod(shape))
        found.append(Sized(share, rank, sparsity, error))
    return found


def linears(seed: int) -> tuple[LayerStatistics, ...]:
    return tuple(
        LayerStatistics(path, shape, place // 2, path, own=sizes(10 * seed + place, shape))
        for place, (path, shape) in enumerate(SHAPES.items())
    )


def best_by_trying_all(known: Sequence[LayerStatistics], keep: float, caps: Sequence[float]) -> float:
    """The least sum of errors of all choices within the budget whose errors are below the smallest cap that goes."""
    budget = keep * sum(2 * math.prod(linear.shape) for linear in known)
    nearest = [min(linear.own, key=lambda size: abs(size.share - keep)).error for linear in known]
    for cap in (*caps, math.inf):
        totals = []
        for choice in itertools.product(*([*linear.own, None] for linear in known)):
            taken = sum(
                bytes_of(linear.shape, size.rank, size.sparsity) if size else bytes_of(linear.shape, None, 1)
                for linear, size in zip(known, choice, strict=True)
            )
            errors = [size.error if size else 0.0 for size in choice]
            if taken <= budget and max(errors) <= cap * sum(nearest) / len(nearest):
                totals.append(sum(errors))
        if totals:
            return min(totals)
    raise AssertionError("nothing fits")


@settings(max_examples=40)
@given(seed=st.integers(0, 1000), keep=st.floats(0.35, 0.95), capped=st.booleans())
def test_no_choice_of_all_loses_less(seed: int, keep: float, capped: bool) -> None:
    known = linears(seed)
    allocation = PUBLISHED if capped else UNCAPPED
    found = allocation.storage_within(known, Budgets(keep), LAYOUT)
    of_rank = {x.path: {(size.rank, size.sparsity): size.error for size in x.own} for x in known}
    errors = [
        0.0 if found.ranks[x.path] is None else of_rank[x.path][found.ranks[x.path], found.sparsities[x.path]]
        for x in known
    ]
    assert sum(errors) == pytest.approx(best_by_trying_all(known, keep, allocation.caps if capped else ()))
    taken = sum(bytes_of(x.shape, found.ranks[x.path], found.sparsities.get(x.path, 1.0)) for x in known)
    assert taken <= keep * sum(2 * math.prod(x.shape) for x in known)


def test_a_cap_keeps_one_layer_from_paying_for_all() -> None:
    """At 0.5 one layer at 0.1 and one dense lose 0.9; both at 0.5 lose 1.0, which the cap of the mean 0.5 asks for."""
    own = [Sized(0.1, 2, 2.0, 0.9), Sized(0.5, 12, 2.0, 0.5)]
    known = tuple(LayerStatistics(path, (48, 48), 0, path, own=own) for path in "ab")
    free = UNCAPPED.storage_within(known, Budgets(0.56), LAYOUT)
    assert sorted(rank or 0 for rank in free.ranks.values()) == [0, 2]
    capped = PUBLISHED.storage_within(known, Budgets(0.56), LAYOUT)
    assert list(capped.ranks.values()) == [12, 12]
    # Where no cap leaves a choice there is none.
    tight = PUBLISHED.storage_within(known, Budgets(0.3), LAYOUT)
    assert sorted(tight.ranks.values(), key=lambda rank: rank or 0) == [2, 12]


@settings(max_examples=40)
@given(seed=st.integers(0, 1000), keep=st.floats(0.35, 0.95))
def test_what_its_sizes_leave_is_filled_where_that_is_wanted(seed: int, keep: float) -> None:
    """No layer has less, none changes its sparsity, and none could have an atom more."""
    known = linears(seed)
    before = PUBLISHED.storage_within(known, Budgets(keep), LAYOUT)
    found = Knapsack(multiple=1).storage_within(known, Budgets(keep), LAYOUT)
    assert found.sparsities == before.sparsities
    taken = sum(bytes_of(x.shape, found.ranks[x.path], found.sparsities.get(x.path, 1.0)) for x in known)
    budget = keep * sum(2 * math.prod(x.shape) for x in known)
    assert taken <= budget
    for linear in known:
        rank, low = found.ranks[linear.path], before.ranks[linear.path]
        assert (rank is None) == (low is None)
        if rank is None or low is None:
            continue
        sparsity = found.sparsities[linear.path]
        assert rank >= low
        step = bytes_of(linear.shape, rank + 1, sparsity) - bytes_of(linear.shape, rank, sparsity)
        too_many = bytes_of(linear.shape, rank + 1, sparsity) >= bytes_of(linear.shape, None, 1)
        assert taken + step > budget or too_many or rank == min(linear.shape)


def setting(m: int = 20, n: int = 16) -> Fit:
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(n, n, generator=generator, dtype=torch.float64) @ torch.randn(
        n, 90, generator=generator, dtype=torch.float64
    )
    return Fit(torch.randn(m, n, generator=generator, dtype=torch.float64), whiten(inputs @ inputs.T))


@pytest.mark.parametrize("error", ["plain", "white"])
@pytest.mark.parametrize("method", ["rocket", "compot"])
def test_each_share_has_the_sparsity_with_the_least_error(error: Any, method: Any) -> None:
    """By the layers themselves, one for each share and sparsity."""
    fit, structure = setting(), Dictionary(method=method, refits=0, rounds=3)
    m, n = fit.target.shape
    allocation = Knapsack(multiple=1, shares=(0.9, 0.5), sparsities=(1.0, 1.6, 3.0), error=error)
    expected = []
    for share in (0.5, 0.9):
        tried = []
        for sparsity in (1.0, 1.6, 3.0):
            rank = max(r for r in range(1, n + 1) if bytes_of((m, n), r, sparsity) <= share * 2 * m * n)
            sparse = structure.with_sparsity(sparsity)
            layer = sparse.fitter.fitted(torch.nn.Linear(n, m).double(), rank, torch.float64, Bits16(), fit)
            missing = fit.target - layer.dense_weight()
            if error == "plain":
                lost = float(missing.norm() / fit.target.norm())
            else:
                lost = float((missing @ fit.whitening.root).norm() / (fit.target @ fit.whitening.root).norm())
            tried.append((lost, rank, sparsity))
        expected.append((share, *min(tried)))
    found = allocation.sizes(fit, Layout(structure))
    assert [(x.share, x.rank, x.sparsity) for x in found] == [(s, r, k) for s, _, r, k in expected]
    assert [x.error for x in found] == pytest.approx([lost for _, lost, _, _ in expected], rel=1e-9)


def test_a_weight_of_zeros_has_no_error() -> None:
    fit = replace(setting(), target=torch.zeros(20, 16, dtype=torch.float64))
    for error in ("plain", "white"):
        allocation = Knapsack.model_validate({"multiple": 1, "error": error, "shares": [0.5]})
        assert [size.error for size in allocation.sizes(fit, LAYOUT)] == [0.0]


def test_fields_that_cannot_be() -> None:
    wrong: dict[str, Any]
    for wrong in (
        {"floor": 0.5},
        {"shares": []},
        {"shares": [1.0]},
        {"sparsities": [0.9]},
        {"error": "spectral"},
        {"caps": [0.5]},
    ):
        with pytest.raises(ValidationError):
            Knapsack.model_validate(wrong)
    with pytest.raises(RecipeError, match=r"chooses how many numbers of each layer.*structure=dictionary"):
        load_recipe("svd-llm", ["allocation=knapsack"])
    with pytest.raises(RecipeError, match="structure 'dictionary' has no choice of that"):
        load_recipe("rocket", ["structure.pattern=2-of-4"])
    with pytest.raises(ValueError, match="2-of-4"):
        Dictionary(pattern="2-of-4").with_sparsity(3.0)


def test_less_than_the_smallest_shares_is_refused() -> None:
    with pytest.raises(EckartError, match=r"smallest of allocation\.shares take .*--keep 0\.[23]\d* or more"):
        PUBLISHED.storage_within(linears(0), Budgets(0.1), LAYOUT)


def test_linears_with_a_size_of_their_own_and_groups_that_are_fused() -> None:
    known = linears(1)
    own = {"a": Size("targets.a.rank", None, rank=9), "b": Size("targets.b.keep", keep=1.0)}
    found = PUBLISHED.storage_within(known, Budgets(0.6, own), LAYOUT)
    assert list(found.ranks) == ["a", "b", "c"]
    assert (found.ranks["a"], found.ranks["b"]) == (9, None)
    assert set(found.sparsities) == {"c"}
    fused = Knapsack(fused_groups=True, caps=(), fill_budget=False).storage_within(known, Budgets(0.7), LAYOUT)
    assert (fused.ranks["a"] is None) == (fused.ranks["b"] is None)
    assert PUBLISHED.ranks_within(known, Budgets(1.0), LAYOUT) == dict.fromkeys(SHAPES)


def test_sparsities_of_layers_go_to_the_folder_and_come_back(tokens: torch.Tensor, tmp_path: Path) -> None:
    model = make_model("llama")
    report = eckart.compress(model, "rocket", 0.6, tokens, overrides=FEW)
    records = {layer.path: layer for layer in report.layers if layer.rank is not None}
    assert len({record.sparsity for record in records.values()}) > 1
    for path, record in records.items():
        layer = model.get_submodule(path)
        assert isinstance(layer, DictionaryLinear)
        assert isinstance(layer.second, MaskedLinear)
        assert record.sparsity is not None
        shape = (record.out_features, record.in_features)
        assert record.bytes == bytes_of(shape, record.rank, record.sparsity)
        assert len(layer.second.values) == shape[0] * max(1, math.floor(layer.rank / record.sparsity + 1e-9))
        assert record.bytes == sum(2 * p.numel() for p in layer.parameters()) + layer.second.mask.numel()
    assert report.keep <= 0.6
    eckart.save(model, report, tmp_path / "small")
    again = eckart.load_model(tmp_path / "small")
    with torch.no_grad():
        assert torch.equal(again(tokens).logits, model.to(again.dtype)(tokens).logits)
    config = json.loads((tmp_path / "small" / "config.json").read_text())
    found = config["quantization_config"]["sparsities"]
    assert found == {path: record.sparsity for path, record in records.items()}
    for wrong, why in ((0.5, "greater than or equal to 1"), ("x", "valid number")):
        found[next(iter(found))] = wrong
        (tmp_path / "small" / "config.json").write_text(json.dumps(config))
        with pytest.raises(CheckpointError, match=why):
            eckart.load_model(tmp_path / "small")


@pytest.mark.parametrize(
    "settings",
    [
        ["objective=weight"],
        ["objective=blended", "allocation.fused_groups=true", "refinement=block", "refinement.epochs=1"],
        ["objective.metric=fisher", "objective.affine=true", "allocation.error=white", "allocation.fill_budget=true"],
        ["sharing=shared", "structure.method=compot", "structure.rounds=2"],
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning")
def test_any_objective_and_what_comes_after(settings: list[str], tokens: torch.Tensor) -> None:
    few = ["allocation.multiple=1", "allocation.shares=[0.3,0.6,0.9]", "allocation.sparsities=[1.5,3]"]
    report = eckart.compress(make_model("llama"), "rocket", 0.6, tokens[:4], overrides=[*few, *settings])
    assert report.ranks
    assert report.keep <= 0.6
    assert {layer.sparsity for layer in report.layers} <= {1.5, 3.0, None}


def test_a_stopped_run_goes_on_with_the_same_sparsities(model_folder: Path, text_file: Path, tmp_path: Path) -> None:
    def run(out: Path, **options: Any) -> dict[str, str]:
        settings = [*FEW, "objective=anchored"]  # later blocks look at what was compressed
        compress_checkpoint(
            model_folder, out, "rocket", 0.6, str(text_file), samples=4, length=24, overrides=settings, **options
        )
        return contents(out)

    expected = run(tmp_path / "whole")
    with pytest.raises(InterruptedRun, match="1 finished blocks are kept"):
        run(tmp_path / "stopped", callback=Stop(1, KeyboardInterrupt()))
    assert run(tmp_path / "stopped", resume=True) == expected
