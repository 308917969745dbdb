"""A base and factors in turn, against the published formula and against the base alone."""

from __future__ import annotations

import pytest
import torch
from tests.layers.test_hybrid import BASES, IN, OUT, fit_of, make, moment, solved

from eckart.layers import QuantizedLinear, fill_child
from eckart.maths.lowrank import refit, unseen_moment
from eckart.maths.quantization import QuantScheme
from eckart.maths.whitening import Whitening, whiten
from eckart.methods.layout import Layout
from eckart.methods.precision import Bits4, Bits8, SemiStructured
from eckart.methods.structure import Hybrid
from eckart.methods.structure.fitting import Fit


def test_the_remainder_of_a_pruned_base_is_what_is_left_out() -> None:
    weight = torch.tensor([[1.0, -2.0, 3.0, -4.0, 5.0]], dtype=torch.float64)
    base = Hybrid(base=SemiStructured())
    assert base.fitter.remainder(weight, Whitening.identity(5)).tolist() == [[1, -2, 0, 0, 0]]
    inputs = torch.diag(torch.tensor([100.0, 1.0, 1.0, 1.0, 1.0], dtype=torch.float64))
    assert base.fitter.remainder(weight, Whitening(inputs, inputs.inverse())).tolist() == [[0, -2, 3, 0, 0]]
    assert Layout(base).bytes(256, 512, 3) == 256 * (512 + 512 // 8) + 2 * 3 * (256 + 512)


@pytest.mark.parametrize("base", [Bits4(), Bits8(), Bits8(group=5)])
def test_the_remainder_is_what_rounding_loses(base: Bits4 | Bits8) -> None:
    weight = torch.randn(12, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    remainder = Hybrid(base=base).fitter.remainder(weight, Whitening.identity(20))
    assert 0 < remainder.norm() < 0.2 * weight.norm()
    assert not Hybrid(base=base).fitter.remainder(torch.zeros_like(weight), Whitening.identity(20)).any()


def test_without_alternation_it_is_the_published_formula() -> None:
    """EoRA, algorithm 1: ``dW = W - Q``, ``S = Q L Q^T``, SVD of ``dW Q L^1/2``, and back by its inverse."""
    module = make().double()
    weight, second_moment = module.weight.detach(), moment()
    layer, _ = solved(module, fit_of(module), 4, base_feedback=False)
    assert isinstance(layer.base, QuantizedLinear)
    quantized = QuantizedLinear.empty_like(module, BASES[0])
    fill_child(quantized, weight, module.bias.detach())
    assert torch.equal(layer.base.codes, quantized.codes)
    values, vectors = torch.linalg.eigh(second_moment)
    roots = {
        "EoRA": vectors @ values.sqrt().diag(),
        "QERA-exact (arXiv 2410.06040)": vectors @ values.sqrt().diag() @ vectors.T,
        "CALDERA (arXiv 2405.18886)": torch.linalg.cholesky(second_moment),
    }
    for name, projection in roots.items():  # one minimiser, whatever the root
        u, s, vt = torch.linalg.svd((weight - quantized.dense_weight()) @ projection, full_matrices=False)
        expected = (u[:, :4] * s[:4]) @ (vt[:4] @ torch.linalg.inv(projection))
        found = layer.second.weight @ layer.first.weight
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8, msg=name)


@pytest.mark.parametrize("with_metric", [False, True])
@pytest.mark.parametrize("scheme", [None, QuantScheme(8), QuantScheme(4, 8)])
@pytest.mark.parametrize("base", BASES)
def test_it_loses_no_more_than_the_base_alone_and_less_with_every_alternation(
    base: QuantScheme, scheme: QuantScheme | None, with_metric: bool
) -> None:
    module = make()
    generator = torch.Generator().manual_seed(2)
    gradients = torch.randn(OUT, 60, dtype=torch.float64, generator=generator)
    fit = fit_of(module, whiten(gradients @ gradients.T) if with_metric else None)
    alone = QuantizedLinear.empty_like(module, base)
    fill_child(alone, fit.target, module.bias, None, fit.second_moment)
    losses = [solved(module, fit, 4, base, scheme, alternations=count)[1] for count in range(4)]
    assert losses[0] < fit.loss(alone.dense_weight())
    assert losses == sorted(losses, reverse=True)
    if scheme is None and base.bits == 4 and not with_metric:
        assert losses[3] < losses[0]


def test_what_the_factors_cannot_make_up_for() -> None:
    """The loss that is left when ``second`` is solved for again, with and without a metric of the outputs."""
    second_moment, generator = moment(), torch.Generator().manual_seed(3)
    first = torch.randn(5, IN, dtype=torch.float64, generator=generator)
    error = torch.randn(OUT, IN, dtype=torch.float64, generator=generator)
    unseen = unseen_moment(first, second_moment)
    refitted = error - refit(torch.zeros(OUT, 5, dtype=torch.float64), first, error, second_moment) @ first
    gradients = torch.randn(OUT, 60, dtype=torch.float64, generator=generator)
    for metric in (torch.eye(OUT, dtype=torch.float64), gradients @ gradients.T):
        left = (metric @ refitted @ second_moment * refitted).sum()
        torch.testing.assert_close((metric @ error @ unseen * error).sum(), left, rtol=1e-9, atol=1e-9)
    assert unseen_moment(torch.zeros_like(first), second_moment).equal(second_moment)
    whole = unseen_moment(torch.eye(IN, dtype=torch.float64), second_moment)
    assert whole.norm() < 1e-9 * second_moment.norm()


def test_factors_first_lose_less_than_eora_on_inputs_that_were_not_summed() -> None:
    generator = torch.Generator().manual_seed(5)

    def inputs(tokens: int) -> torch.Tensor:
        mixed = torch.randn(IN, tokens, dtype=torch.float64, generator=generator)
        return (torch.logspace(0, -1.5, IN, dtype=torch.float64)[:, None] * mixed).flip(0)

    module, summed, others = make().double(), inputs(2000), inputs(2000)
    fit = Fit(module.weight.detach(), whiten(summed @ summed.T))
    losses = []
    for alternations in (0, 3):
        layer, _ = solved(module, fit, 4, QuantScheme(3, 7), QuantScheme(8), alternations=alternations)
        losses.append(float(((fit.target - layer.dense_weight()) @ others).square().sum()))
    assert losses[1] < 0.9 * losses[0]


def test_feedback_loses_less() -> None:
    module = make()
    fit = fit_of(module)
    losses = [
        solved(module, fit, 4, scheme=QuantScheme(4, 8), base_feedback=base, feedback=factors)[1]
        for base, factors in ((True, True), (True, False), (False, False))
    ]
    assert losses == sorted(losses)


@pytest.mark.parametrize("inputs", [IN, 5])
def test_at_full_rank_nothing_is_lost(inputs: int) -> None:
    """In directions that no token reaches too."""
    module = make().double()
    layer, _ = solved(module, fit_of(module, inputs=inputs), min(OUT, IN))
    torch.testing.assert_close(layer.dense_weight(), module.weight.detach())
