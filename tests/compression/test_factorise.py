"""The factoriser, against solutions in float64 by a QR and an SVD of raw inputs, with no moments in between."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, ClassVar, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.compression.raw_inputs import CPU, PLACE, Data, outputs, regression, streams
from torch import nn

from eckart.blocks.block import Group
from eckart.compression.factorise import Factoriser, added_bias
from eckart.compression.plan import Plan
from eckart.errors import NonFiniteError
from eckart.layers import FactoredLinear, LowRankLinear, QuantizedLinear
from eckart.maths.moments import Moments
from eckart.maths.whitening import Whitening
from eckart.methods.metric import Fisher
from eckart.methods.objectives import (
    ActivationScaled,
    Anchored,
    Blended,
    InputAware,
    Objective,
    PrincipalOutputs,
    ShiftAware,
    Weight,
)
from eckart.methods.precision import Bits4, Bits8
from eckart.methods.recipe import Recipe
from eckart.methods.structure import Hybrid, Pivoted, Structure, TwoFactor

OBJECTIVES: list[Objective] = [
    Weight(),
    ActivationScaled(alpha=0.7),
    InputAware(),
    ShiftAware(),
    Anchored(),
    Blended(beta_min=0.3, beta_max=0.3),
]
WITH_DATA = [
    objective for objective in OBJECTIVES if isinstance(objective, (InputAware, ShiftAware, Anchored, Blended))
]


def name_of(value: object) -> str | None:
    return value.name if isinstance(value, Objective) else None


@pytest.mark.parametrize("objective", OBJECTIVES, ids=name_of)
@settings(max_examples=12)
@given(seed=st.integers(0, 10**6), m=st.integers(2, 9), n=st.integers(2, 9), share=st.floats(0, 1))
def test_each_layer_is_the_best_of_its_rank(objective: Objective, seed: int, m: int, n: int, share: float) -> None:
    data = Data.random(seed, m, n)
    rank = max(1, round(share * min(m, n)))
    weights = {name: data.weight(name) for name in ("one", "other")}
    biases = {name: data.module.get_submodule(name).get_parameter("bias").detach().clone() for name in weights}
    records, _ = data.run(objective, dict.fromkeys(weights, rank))
    for name, weight in weights.items():
        layer = data.module.get_submodule(name)
        assert isinstance(layer, LowRankLinear)
        assert (layer.in_features, layer.out_features, layer.rank) == (n, m, rank)
        inputs, targets = streams(objective, weight, data)
        found = outputs(layer, inputs) - biases[name][:, None]
        least = (targets - regression(targets, inputs, rank) @ inputs).norm()
        # The loss and not the weight, of which there are two where two components are equally large.
        assert (targets - found).norm() == pytest.approx(float(least), rel=1e-4, abs=1e-7 * float(targets.norm()))
        assert records[name].rank == rank
        assert records[name].bytes == 2 * rank * (m + n)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=name_of)
def test_each_record_says_what_the_layer_loses(objective: Objective) -> None:
    """Of the outputs of the original model, or of the original weight on the inputs that there are now."""
    data = Data.random()
    weight = data.weight("one")
    bias = data.module.get_submodule("one").get_parameter("bias").detach()[:, None].clone()
    records, _ = data.run(objective, {"one": 3})
    layer = data.module.get_submodule("one")
    source = objective.input_source.name
    if source == "NONE":
        inputs = torch.eye(6, dtype=torch.float64)
        targets = weight
    else:
        inputs = data.x if source == "ORIGINAL" else data.z
        targets = weight @ (data.x if source != "COMPRESSED" else data.z)
    error = (targets + bias - outputs(layer, inputs)).norm() / targets.norm()
    assert records["one"].error == pytest.approx(float(error), rel=1e-6)
    assert 0.01 < records["one"].error < 1
    assert records["one"].unresolved == 0


@pytest.mark.parametrize("objective", WITH_DATA, ids=name_of)
@pytest.mark.parametrize("has_bias", [True, False])
def test_an_affine_layer_makes_up_for_the_means(objective: Objective, has_bias: bool) -> None:
    """The best weight is that about the means, and the bias is what the means then lack."""
    data = Data.random(3)
    linear: Any = data.module.get_submodule("one")
    if not has_bias:
        linear.bias = None
    before = torch.zeros(7).double() if linear.bias is None else linear.bias.detach().clone()
    weight = data.weight("one")
    affine = objective.model_copy(update={"affine": True})
    ref = replace(data.ref("one"), has_bias=has_bias)
    recipe = Recipe(objective=affine)
    factoriser = Factoriser(recipe, Plan(recipe, 0.5, [], {ref.path: 3}, 0), CPU)
    energy = float((weight @ data.x).square().sum())
    (record,) = factoriser.replace_group(data.onloaded(), Group((ref,), True), data.moments(affine), {ref: energy}, {})
    inputs, targets = streams(objective, weight, data)
    centre, goal = inputs.mean(dim=1, keepdim=True), targets.mean(dim=1, keepdim=True)
    expected = regression(targets - goal, inputs - centre, 3) @ (inputs - centre) + goal
    layer = data.module.get_submodule("one")
    found = outputs(layer, inputs) - before[:, None]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert isinstance(layer, FactoredLinear)
    if has_bias:
        old = nn.Linear(6, 7).double()
        old.bias.data = before
        now = layer.second.bias
        assert now is not None
        torch.testing.assert_close(added_bias(old, layer), now.detach() - before)
    # A bias that was there before is not counted, a new one is.
    assert record.bytes == 2 * 3 * (7 + 6) + (0 if has_bias else 2 * 7)
    real = weight @ (data.z if objective.input_source.name == "COMPRESSED" else data.x)
    assert record.error == pytest.approx(float((real - found).norm() / real.norm()), rel=1e-5)


@pytest.mark.parametrize(
    "objective",
    [Anchored(residual_anchoring=0.8), Blended(beta_min=0.4, beta_max=0.4, residual_anchoring=1)],
    ids=name_of,
)
def test_the_residual_stream_is_looked_at_where_the_output_is_added_to_it(objective: Objective) -> None:
    for residual in (PLACE, None):
        data = Data.random(4)
        weight, bias = data.weight("one"), data.module.get_submodule("one").get_parameter("bias").detach().clone()
        data.run(objective, {"one": 4}, residual=residual)
        inputs, targets = streams(objective, weight, data, residual is not None)
        expected = regression(targets, inputs, 4) @ inputs
        found = outputs(data.module.get_submodule("one"), inputs) - bias[:, None]
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("objective", [InputAware(), ShiftAware(), Anchored()], ids=name_of)
def test_errors_are_measured_in_the_metric_of_outputs(objective: Objective) -> None:
    data = Data.random(5)
    root = torch.randn(7, 7, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    moment = (root @ root.T).float()
    shrunk = moment.double() + 0.05 * moment.double().diagonal().mean() * torch.eye(7)
    values, vectors = torch.linalg.eigh(shrunk)
    half, inverse = vectors * values.sqrt(), (vectors / values.sqrt()).T  # another root than the solver's
    weight = data.weight("one")
    bias = data.module.get_submodule("one").get_parameter("bias").detach().clone()
    inputs, targets = streams(objective, weight, data)
    with_metric = objective.model_copy(update={"metric": Fisher(shrinkage=0.05)})
    data.run(with_metric, {"one": 3}, metrics={"block.one": moment})
    expected = inverse.T @ regression(half.T @ targets, inputs, 3) @ inputs
    found = outputs(data.module.get_submodule("one"), inputs) - bias[:, None]
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_principal_outputs_project_on_the_leading_directions_of_all_sequences() -> None:
    data = Data.random(7)
    weight, bias = data.weight("one"), data.module.get_submodule("one").get_parameter("bias").detach().clone()
    _, factoriser = data.run(PrincipalOutputs(), {"one": 3})
    # Of each sequence the leading directions, and the principal components of them all.
    directions = [torch.linalg.svd(weight @ part, full_matrices=False)[0][:, :3] for part in data.x.split(10, dim=1)]
    leading = torch.linalg.svd(torch.cat(directions, dim=1), full_matrices=False)[0][:, :3]
    found = outputs(data.module.get_submodule("one"), data.x) - bias[:, None]
    torch.testing.assert_close(found, leading @ leading.T @ weight @ data.x, rtol=1e-6, atol=1e-6)
    assert factoriser.spectra == {}  # its components have no singular values


def test_spectra_are_those_of_the_outputs() -> None:
    data = Data.random(8)
    weights = {name: data.weight(name) for name in ("one", "other")}
    _, factoriser = data.run(Anchored(), {"one": 2, "other": None})
    basis = torch.linalg.qr(data.z.T)[0]
    components, values = factoriser.spectra["block.one"]
    assert components.tolist() == [1, 2, 3, 4, 5, 6]
    expected = torch.linalg.svdvals(weights["one"] @ data.x @ basis)
    torch.testing.assert_close(values.double(), expected, rtol=1e-5, atol=1e-5)
    assert factoriser.spectra.keys() == {"block.one"}


@pytest.mark.parametrize("objective", OBJECTIVES, ids=name_of)
def test_a_linear_without_a_rank_stays_and_its_inputs_may_have_moved(objective: Objective) -> None:
    data = Data.random(9)
    linear, weight = data.module.get_submodule("one"), data.weight("one")
    records, _ = data.run(objective, {"one": None, "other": 2})
    assert data.module.get_submodule("one") is linear
    assert isinstance(data.module.get_submodule("other"), LowRankLinear)
    assert records["one"].bytes == 2 * 7 * 6
    moved = float((weight @ (data.x - data.z)).norm() / (weight @ data.x).norm())
    both = objective.input_source.name == "BOTH"
    assert records["one"].error == pytest.approx(moved if both else 0, rel=1e-6, abs=1e-9)


class Counting(InputAware):
    """Counts how often inputs are decomposed."""

    name: Literal["counting"] = "counting"  # type: ignore[assignment]
    times: ClassVar[list[int]] = []

    def whitening(self, moments: Moments | None, in_features: int, device: torch.device) -> Whitening:
        self.times.append(in_features)
        return super().whitening(moments, in_features, device)


def test_inputs_are_decomposed_once_for_all_that_share_them_and_only_if_need_be() -> None:
    Counting.times.clear()
    Data.random().run(Counting(), {"one": 2, "other": 3})
    assert Counting.times == [6]
    Data.random().run(Counting(), {"one": None, "other": None})
    assert Counting.times == [6]
    # Nor where the equation is solved already.
    basis = torch.linalg.qr(torch.randn(7, 6, dtype=torch.float64))[0]
    Data.random().run(Counting(), {"one": 2}, components=lambda path: (basis, basis, torch.ones(6).double()))
    assert Counting.times == [6]


def test_components_that_are_known_are_what_layers_are_made_of() -> None:
    data = Data.random(10)
    weight, bias = data.weight("one"), data.module.get_submodule("one").get_parameter("bias").detach().clone()
    generator = torch.Generator().manual_seed(1)
    basis = torch.linalg.qr(torch.randn(7, 6, generator=generator, dtype=torch.float64))[0]
    values = torch.arange(6, 0, -1, dtype=torch.float64)
    records, factoriser = data.run(InputAware(), {"one": 2}, components=lambda path: (basis, basis, values))
    expected = basis[:, :2] @ basis[:, :2].T @ weight @ data.x
    found = outputs(data.module.get_submodule("one"), data.x) - bias[:, None]
    torch.testing.assert_close(found, expected)
    assert factoriser.spectra["block.one"][1].tolist() == [6, 5, 4, 3, 2, 1]
    real = weight @ data.x
    assert records["one"].error == pytest.approx(float((real - expected).norm() / real.norm()))


def test_what_is_lost_counts_from_the_model_as_it_was() -> None:
    """Where other weights than the model's own are factored."""
    data = Data.random(11)
    weight = data.weight("one")
    own = weight + 0.3
    bias = data.module.get_submodule("one").get_parameter("bias").detach().clone()
    onloaded = data.onloaded()
    onloaded.originals["one"] = own
    records, _ = data.run(InputAware(), {"one": 4}, onloaded=onloaded)
    found = outputs(data.module.get_submodule("one"), data.x) - bias[:, None]
    torch.testing.assert_close(found, regression(weight @ data.x, data.x, 4) @ data.x)
    assert records["one"].error == pytest.approx(float((own @ data.x - found).norm() / (own @ data.x).norm()))


@pytest.mark.parametrize("structure", [TwoFactor(), TwoFactor(split="singular-values"), Pivoted()], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_record_is_of_the_numbers_that_will_be_stored(structure: Structure, dtype: torch.dtype) -> None:
    data = Data.random(12)
    weight, onloaded = data.weight("one"), data.onloaded(dtype)
    records, _ = data.run(InputAware(), {"one": 3}, structure=structure, onloaded=onloaded)
    layer = data.module.get_submodule("one")
    for name, tensor in layer.state_dict().items():
        assert onloaded.dtype(f"one.{name}") == (dtype if tensor.is_floating_point() else tensor.dtype)
        if tensor.is_floating_point():
            assert torch.equal(tensor.to(dtype).double(), tensor), name
    real, found = weight @ data.x, outputs(layer, data.x) - outputs(layer, 0 * data.x)
    assert records["one"].error == pytest.approx(float((real - found).norm() / real.norm()), rel=1e-6)
    least = float((real - regression(real, data.x, 3) @ data.x).norm() / real.norm())
    assert least <= records["one"].error < 1.1 * least
    index = 0 if isinstance(structure, TwoFactor) else 2 * 7
    numbers = 3 * (7 + 6) if isinstance(structure, TwoFactor) else 3 * (7 + 6 - 3)
    assert records["one"].bytes == 2 * numbers + index


@pytest.mark.parametrize("precision", [Bits8(), Bits4(group=4), Bits8(feedback=False)], ids=str)
@pytest.mark.parametrize("objective", [InputAware(), Anchored()], ids=name_of)
def test_a_weight_that_is_not_factored_is_rounded(precision: Bits8 | Bits4, objective: Objective) -> None:
    data = Data.random(13, m=5, n=8)
    weight, bias = data.weight("one"), data.module.get_submodule("one").get_parameter("bias").detach().clone()
    records, factoriser = data.run(objective, {"one": None}, precision=precision)
    layer = data.module.get_submodule("one")
    assert isinstance(layer, QuantizedLinear)
    found = outputs(layer, torch.eye(8, dtype=torch.float64)) - bias[:, None]
    aim = weight
    if isinstance(objective, Anchored) and precision.feedback:  # what is lost in front is made up for
        aim = torch.linalg.lstsq(data.z.T, (weight @ data.x).T).solution.T
        assert (aim - weight).abs().max() > 0.1
    step = aim.abs().max() / (2 ** (precision.bits - 1) - 1)
    assert 0 < (found - aim).abs().max() < 2 * step
    scales = 5 if precision.group is None else 10
    assert records["one"].bytes == 5 * 8 * precision.bits // 8 + 2 * scales
    inputs = data.z if isinstance(objective, Anchored) else data.x
    real = weight @ data.x
    assert records["one"].error == pytest.approx(float((real - found @ inputs).norm() / real.norm()), rel=1e-6)
    assert factoriser.spectra == {}


@pytest.mark.parametrize("objective", [InputAware(), Anchored(), ShiftAware()], ids=name_of)
def test_beside_a_base_factors_are_the_best_of_what_it_lacks(objective: Objective) -> None:
    data = Data.random(14, m=6, n=8)
    weight, bias = data.weight("one"), data.module.get_submodule("one").get_parameter("bias").detach().clone()
    records, factoriser = data.run(objective, {"one": 2}, structure=Hybrid(base=Bits4(group=4), alternations=0))
    layer = data.module.get_submodule("one")
    (base,) = (child for child in layer.children() if isinstance(child, QuantizedLinear))
    held = outputs(base, torch.eye(8, dtype=torch.float64))
    held = held - (0 if base.bias is None else base.bias.detach()[:, None])
    inputs, targets = streams(objective, weight, data)
    expected = held @ inputs + regression(targets - held @ inputs, inputs, 2) @ inputs
    torch.testing.assert_close(outputs(layer, inputs) - bias[:, None], expected, rtol=1e-5, atol=1e-5)
    assert records["one"].bytes == 6 * 8 // 2 + 2 * 6 * 2 + 2 * 2 * (6 + 8)
    assert factoriser.spectra == {}  # which is of what a base lacks, and is known only when the base is


def test_fewer_tokens_than_features_are_fitted_exactly() -> None:
    data = Data.random(15, m=9, n=8, tokens=5)
    weight, bias = data.weight("one"), data.module.get_submodule("one").get_parameter("bias").detach().clone()
    records, _ = data.run(Anchored(), {"one": 5})
    found = outputs(data.module.get_submodule("one"), data.z) - bias[:, None]
    torch.testing.assert_close(found, weight @ data.x, rtol=1e-5, atol=1e-5)
    assert records["one"].error < 1e-6


def test_what_inputs_cannot_tell_is_in_the_record() -> None:
    """The target is the difference of two features that are all but the same in the compressed model."""
    generator = torch.Generator().manual_seed(0)
    common, difference = (torch.randn(200, 1, generator=generator, dtype=torch.float64) for _ in range(2))
    data = Data.random(m=1, n=2, tokens=200)
    data.module.get_submodule("one").get_parameter("weight").data = torch.tensor([[1.0, -1.0]]).double()
    shares = []
    for apart in (1.0, 3e-7):
        data = replace(
            data,
            x=torch.cat([common, common + difference], 1).T,
            z=torch.cat([common, common + apart * difference], 1).T,
        )
        shares.append(data.run(Anchored(), {"one": 1})[0]["one"].unresolved)
        data.module.one = nn.Linear(2, 1).double()
        data.module.get_submodule("one").get_parameter("weight").data = torch.tensor([[1.0, -1.0]]).double()
    assert shares[0] == 0
    assert 0.02 < shares[1] <= 1


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("rank", [2, None])
def test_a_weight_that_is_no_number_is_named(value: float, rank: int | None) -> None:
    data = Data.random()
    data.module.get_submodule("other").get_parameter("weight").data[0, 0] = value
    with pytest.raises(NonFiniteError, match=r"weight of block\.other is NaN or infinite"):
        data.run(Weight(), {"one": 2, "other": rank})


@pytest.mark.parametrize("objective", [InputAware(), ShiftAware(), Anchored()], ids=name_of)
def test_an_input_that_is_no_number_is_named_with_all_that_share_it(objective: Objective) -> None:
    data = Data.random()
    data.x[1, 3] = data.z[1, 3] = math.nan
    linear = data.module.get_submodule("one")
    with pytest.raises(NonFiniteError, match=r"input of block\.one, block\.other is NaN or infinite"):
        data.run(objective, {"one": None, "other": None})
    assert data.module.get_submodule("one") is linear
