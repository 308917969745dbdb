"""What is made of sums over tokens, against published formulas and against what a linear that nothing reaches gets."""

from __future__ import annotations

import torch
from tests.conftest import make_model
from tests.methods.sensitivity.helpers import original_of

from eckart.layers import weight_matrix
from eckart.maths.lowrank import solve
from eckart.maths.whitening import whiten
from eckart.methods.allocation import Needs
from eckart.methods.metric import Fisher
from eckart.methods.objectives import InputAware
from eckart.methods.sensitivity.measure import measure
from eckart.methods.sensitivity.request import Request
from eckart.methods.sensitivity.solver import first_order_changes

PATH = "model.layers.1.self_attn.v_proj"


def test_first_order_change_is_the_published_formula():
    """``- s_i u_i^T G S^-T v_i`` with S a root of the inputs' second moment, in float64."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 8, dtype=torch.float64, generator=generator)
    gradient = torch.randn(5, 8, dtype=torch.float64, generator=generator)
    inputs = torch.randn(8, 50, dtype=torch.float64, generator=generator)
    root = torch.linalg.cholesky(inputs @ inputs.T)
    left, values, right = torch.linalg.svd(weight @ root, full_matrices=False)
    whitened_gradient = gradient @ torch.linalg.inv(root).T
    expected = torch.stack([-s * (u @ whitened_gradient @ v) for s, u, v in zip(values, left.T, right, strict=True)])
    solution = solve(whiten(inputs @ inputs.T), None, weight)
    torch.testing.assert_close(first_order_changes(solution, weight, gradient), expected)


def test_a_linear_without_a_gradient_has_the_components_of_its_weight(tokens):
    """No token weighs anything where nothing behind reads the output."""
    model = make_model("llama")
    with torch.no_grad():
        model.get_submodule("model.layers.1.self_attn.o_proj").weight.zero_()
    metric = Fisher(token_weights="gradient")
    request = Request(InputAware(metric=metric), Needs.SPECTRUM | Needs.CURVATURE, metric, keep_bases=True)
    measurements = measure(original_of(model, tokens), request, lambda done, total: None)
    basis, dual, values = measurements.components(PATH)
    weight = weight_matrix(model.get_submodule(PATH)).detach().double()
    left = torch.linalg.svd(weight, full_matrices=False)[0][:, :4]
    truncated = basis[:, :4].double() @ dual[:, :4].double().T @ weight
    torch.testing.assert_close(truncated, left @ left.T @ weight, rtol=1e-5, atol=1e-6)
    assert not values.any()
