from __future__ import annotations

import math

import pytest
import torch
from tests.conftest import make_model
from tests.methods.sensitivity.helpers import original_of
from torch.nn import functional
from transformers import MixtralConfig, MixtralForCausalLM

from eckart.blocks.discovery import block_lists, find_blocks
from eckart.blocks.expert_stacks import expand
from eckart.blocks.fuse import fusable_experts, fuse
from eckart.blocks.onload import ResidentWeights
from eckart.blocks.passes import input_moments
from eckart.errors import NonFiniteError, UnsupportedModelError
from eckart.layers import weight_matrix
from eckart.maths.whitening import Whitening
from eckart.methods.allocation import Needs
from eckart.methods.allocation.base import relative_energy
from eckart.methods.metric import Fisher
from eckart.methods.objectives import InputAware, Weight
from eckart.methods.precision import Bits4
from eckart.methods.sensitivity.measure import _Measurement, measure, measure_all
from eckart.methods.sensitivity.measurements import Measurements
from eckart.methods.sensitivity.request import Request
from eckart.methods.structure import Hybrid

PATH = "model.layers.1.self_attn.q_proj"
ALL = Needs.SPECTRUM | Needs.FIRST_ORDER | Needs.CURVATURE | Needs.SIMILARITY


def profile_of(model, tokens, objective=None, needs=ALL, metric=None) -> Measurements:
    request = Request(objective or InputAware(), needs, metric or Fisher(), keep_bases=True)
    return measure(original_of(model, tokens), request, lambda done, total: None)


def evidence_on(measurements: Measurements, path: str = PATH):
    return next(linear for linear in measurements.linears if linear.path == path)


def inputs_of(model, path, tokens) -> torch.Tensor:
    seen = []
    handle = model.get_submodule(path).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        model(input_ids=tokens, use_cache=False)
    handle.remove()
    result: torch.Tensor = seen[0].flatten(0, -2).double()
    return result


def mean_loss(model, tokens) -> torch.Tensor:
    logits = model(input_ids=tokens, use_cache=False).logits[:, :-1].flatten(0, 1)
    return functional.cross_entropy(logits, tokens[:, 1:].flatten())


def test_energies_are_the_truncation_losses_of_the_outputs(llama, tokens):
    measurements = profile_of(llama, tokens)
    inputs = inputs_of(llama, PATH, tokens)
    weight = weight_matrix(llama.get_submodule(PATH)).detach().double()
    basis, dual = (tensor.double() for tensor in measurements.solutions[PATH])
    for rank in (3, 10):
        truncated = basis[:, :rank] @ dual[:, :rank].T @ weight
        expected = ((weight - truncated) @ inputs.T).square().sum() / len(inputs)
        assert float(evidence_on(measurements).energy[rank:].sum()) == pytest.approx(float(expected), rel=1e-3)


@pytest.mark.parametrize("objective", [InputAware(), InputAware(metric=Fisher()), Weight()])
def test_first_order_change_is_the_derivative_of_the_loss_along_a_component(objective, tokens):
    model = make_model("llama").double()
    measurements = profile_of(model, tokens, objective)
    weight = model.get_submodule(PATH).weight
    basis, dual = (tensor.double() for tensor in measurements.solutions[PATH])
    (gradient,) = torch.autograd.grad(mean_loss(model, tokens), weight)
    changes = evidence_on(measurements).first_order
    for component in (0, 5, 20):
        removed = torch.outer(basis[:, component], dual[:, component] @ weight.detach())
        expected = -float((gradient * removed).sum())
        # Gradients are summed in float32: small changes are differences of larger numbers.
        assert float(changes[component]) == pytest.approx(expected, rel=1e-3, abs=1e-3 * float(changes.abs().max()))


def test_curvature_is_that_of_the_kronecker_factors(llama, tokens):
    """1/2 tr(G D S D^T) for D what truncation takes off, whichever basis it is taken in."""
    plain = profile_of(llama, tokens)
    metric = profile_of(llama, tokens, InputAware(metric=Fisher()))
    second = metric.metrics[PATH].double()
    inputs = inputs_of(llama, PATH, tokens)
    moment = inputs.T @ inputs / len(inputs)
    weight = weight_matrix(llama.get_submodule(PATH)).detach().double()
    basis, dual = (tensor.double() for tensor in plain.solutions[PATH])
    removed = weight - basis[:, :7] @ dual[:, :7].T @ weight
    expected = float((second @ removed @ moment @ removed.T).trace()) / 2
    assert float(evidence_on(plain).curvature[7:].sum()) == pytest.approx(expected, rel=1e-3)
    # In the metric's own basis the loss of a rank is the least of all, up to the metric's shrinkage.
    assert float(evidence_on(metric).curvature[7:].sum()) < expected * 1.02
    assert not plain.metrics


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_block_metrics_are_second_moments_of_gradients_behind_blocks(kind, tokens):
    model = make_model(kind)
    found = profile_of(model, tokens, metric=Fisher(labels="next")).block_metrics
    ((path, blocks),) = block_lists(model)
    seen: list[torch.Tensor] = []

    def record(module, args, output):
        hidden = output[0] if isinstance(output, tuple) else output
        hidden.retain_grad()
        seen.append(hidden)

    for block in blocks:
        block.register_forward_hook(record)
    predictions = tokens[:, 1:].numel()
    (mean_loss(model, tokens) * predictions).backward()
    assert list(found) == [f"{path}.{number}" for number in reversed(range(len(blocks)))]
    for number, hidden in enumerate(seen):
        assert hidden.grad is not None
        gradients = hidden.grad.flatten(0, 1).double()
        expected = gradients.T @ gradients / predictions
        torch.testing.assert_close(found[f"{path}.{number}"].double(), expected, rtol=1e-3, atol=1e-7)


def test_curvature_predicts_the_divergence_from_the_original_model(tokens):
    """With labels sampled from the model, for a small change of the last block's last linear alone."""
    model = make_model("llama").double()
    path = "model.layers.2.mlp.down_proj"
    many = tokens.repeat(60, 1)  # more draws of the labels
    measurements = profile_of(model, many, InputAware(), Needs.SPECTRUM | Needs.CURVATURE)
    linear = model.get_submodule(path)
    weight = linear.weight.detach().clone()
    basis, dual = (tensor.double() for tensor in measurements.solutions[path])
    share = 0.05
    with torch.no_grad():
        before = model(input_ids=tokens).logits.log_softmax(-1)
        found = []
        for component in range(4):
            linear.weight.copy_(weight - share * torch.outer(basis[:, component], dual[:, component] @ weight))
            after = model(input_ids=tokens).logits.log_softmax(-1)
            found.append(float((before.exp() * (before - after)).sum(-1).mean()) / share**2)
    predicted = evidence_on(measurements, path).curvature[:4].tolist()
    # The Kronecker factors take inputs and gradients to be independent, so only roughly.
    for real, expected in zip(found, predicted, strict=True):
        assert 0.4 < real / expected < 2.5


def test_components_beside_a_base_are_those_of_what_it_lacks(llama, tokens):
    structure = Hybrid(base=Bits4(group=16))
    request = Request(InputAware(), ALL, Fisher(), keep_bases=True, structure=structure)
    measurements = measure(original_of(llama, tokens), request, lambda done, total: None)
    inputs = inputs_of(llama, PATH, tokens)
    weight = weight_matrix(llama.get_submodule(PATH)).detach().double()
    remainder = structure.fitter.remainder(weight, Whitening.identity(32))
    found = evidence_on(measurements)
    # All energy is what the base loses, and what is relative to the output stays so.
    lost = (remainder @ inputs.T).square().sum() / len(inputs)
    assert float(found.energy.sum()) == pytest.approx(float(lost), rel=1e-4)
    whole = (weight @ inputs.T).square().sum() / len(inputs)
    assert found.output_energy == pytest.approx(float(whole), rel=1e-4)
    torch.testing.assert_close(relative_energy(found).sum(), lost / whole, rtol=1e-3, atol=0)
    basis, dual = (tensor.double() for tensor in measurements.solutions[PATH])
    truncated = basis[:, :4] @ dual[:, :4].T @ remainder
    expected = ((remainder - truncated) @ inputs.T).square().sum() / len(inputs)
    assert float(found.energy[4:].sum()) == pytest.approx(float(expected), rel=1e-3)
    (gradient,) = torch.autograd.grad(mean_loss(llama, tokens), llama.get_submodule(PATH).weight)
    removed = torch.outer(basis[:, 0], dual[:, 0] @ remainder)
    assert float(found.first_order[0]) == pytest.approx(-float((gradient * removed).sum()), rel=1e-2, abs=1e-4)
    assert evidence_on(profile_of(llama, tokens)).output_energy is None


def test_similarity_is_that_of_the_hidden_states_around_a_block(llama, tokens):
    with torch.no_grad():
        states = llama(input_ids=tokens, output_hidden_states=True).hidden_states
    expected = float(functional.cosine_similarity(states[1], states[2], dim=-1).mean())
    assert evidence_on(profile_of(llama, tokens)).similarity == pytest.approx(expected, abs=1e-5)


def test_a_basis_and_its_dual_are_inverse_in_any_metric(llama, tokens):
    for objective in (InputAware(), InputAware(metric=Fisher())):
        basis, dual = (tensor.double() for tensor in profile_of(llama, tokens, objective).solutions[PATH])
        torch.testing.assert_close(dual.T @ basis, torch.eye(basis.shape[1], dtype=torch.float64), atol=1e-4, rtol=0)


def test_spectra_of_weights_need_no_data(llama):
    original = original_of(llama, torch.zeros(0, 0, dtype=torch.int64))
    original.calibration = None
    measurements = measure(original, Request(Weight(), Needs.SPECTRUM), lambda done, total: None)
    weight = weight_matrix(llama.get_submodule(PATH)).detach().double()
    torch.testing.assert_close(evidence_on(measurements).energy, torch.linalg.svdvals(weight).square())


def test_a_weight_that_is_not_finite_is_named(llama, tokens):
    with torch.no_grad():
        llama.get_submodule(PATH).weight[0, 0] = math.nan
    with pytest.raises(NonFiniteError):
        profile_of(llama, tokens)


def test_blocks_are_counted_while_they_are_measured(llama, tokens):
    seen = []
    request = Request(InputAware(), Needs.SPECTRUM)
    measure(original_of(llama, tokens), request, lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_requests_that_are_measured_together_give_what_each_gives_alone(llama, tokens):
    requests = [
        Request(InputAware(), ALL, Fisher(), 1, keep_bases=True),
        Request(InputAware(shrinkage=0.1), Needs.FIRST_ORDER | Needs.SPECTRUM, gradient_samples=3),
        Request(InputAware(metric=Fisher(top_k=5)), Needs.NONE, Fisher(top_k=5), keep_bases=True, keep_inputs=True),
        Request(Weight(), Needs.SPECTRUM),
    ]
    together = measure_all(original_of(llama, tokens), requests, lambda done, total: None)
    for request, found in zip(requests, together, strict=True):
        alone = measure(original_of(llama, tokens), request, lambda done, total: None)
        for one, other in zip(found.linears, alone.linears, strict=True):
            for name in ("energy", "first_order", "curvature"):
                values = getattr(one, name), getattr(other, name)
                assert (values[0] is None) == (values[1] is None)
                if values[0] is not None:
                    torch.testing.assert_close(*values)
        assert found.metrics.keys() == alone.metrics.keys()
        assert all(torch.equal(found.metrics[path], alone.metrics[path]) for path in alone.metrics)
        assert found.solutions.keys() == alone.solutions.keys()
        for path in alone.solutions:
            assert torch.equal(found.solutions[path][1], alone.solutions[path][1])
        assert found.whitenings.keys() == alone.whitenings.keys()
    assert together[0].solutions[PATH][0] is together[0].solutions[PATH][1]  # without a metric they are one, held once
    assert together[2].whitenings.keys() == together[2].means.keys() == together[2].metrics.keys()


def test_the_inputs_that_are_kept_are_those_of_the_linear(llama, tokens):
    request = Request(InputAware(), Needs.NONE, keep_inputs=True)
    measurements = measure(original_of(llama, tokens), request, lambda done, total: None)
    for path in (PATH, "model.layers.1.mlp.down_proj"):
        inputs = inputs_of(llama, path, tokens)
        root = measurements.whitenings[path][0]
        torch.testing.assert_close(root @ root.T, inputs.T @ inputs, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(measurements.means[path], inputs.mean(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("metric", [None, Fisher(labels="next")])
def test_experts_that_share_a_basis_have_the_sums_of_each(metric, tokens):
    """Gradients row by row, output metrics block by block, and what the best factor of each expert saves."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 256, "hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    model = MixtralForCausalLM(MixtralConfig(**sizes, **heads, num_local_experts=4)).eval()
    expand(model, ResidentWeights())
    objective = InputAware() if metric is None else InputAware(metric=metric)
    apart = profile_of(model, tokens, objective)
    paths = [f"model.layers.0.mlp.experts.gate_up_proj.{n}" for n in range(4)]
    weights = [weight_matrix(model.get_submodule(path)).detach().double() for path in paths]
    original = original_of(model, tokens)
    streams = original.forward()
    known = input_moments(original.block_pass(0), original.blocks[0].groups, streams.fronts[0])
    moments = [known[group] for group in original.blocks[0].groups if group.linears[0].path in paths]
    mean_loss(model, tokens).backward()
    gradients = [model.get_submodule(path).weight.grad.double() for path in paths]
    fuse(model, fusable_experts(find_blocks(model)), ResidentWeights())
    found = profile_of(model, tokens, objective)
    path = f"{paths[0]}.joint"
    (linear,) = [known for known in found.linears if known.path == path]
    assert linear.tokens == pytest.approx(sum(run.tokens for run in moments))
    basis, dual = (tensor.double() for tensor in found.solutions[path])
    stacked, gradient = torch.cat(weights), torch.cat(gradients)
    expected = -((gradient.T @ basis) * (stacked.T @ dual)).sum(dim=0)
    torch.testing.assert_close(linear.first_order, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    roots = [torch.eye(48, dtype=torch.float64)] * 4
    if metric is not None:
        blocks = torch.stack([apart.metrics[known].double() for known in paths])
        torch.testing.assert_close(found.metrics[path].double(), blocks, rtol=1e-4, atol=1e-9)
        roots = list(metric.root(blocks).root)
    for rank in (5, 20):  # what is lost if each expert has the best factor beside the basis for its own tokens
        span, lost = dual[:, :rank].T @ stacked, 0.0
        for weight, root, run in zip(weights, roots, moments, strict=True):
            inputs = torch.linalg.cholesky(run.second_moment)
            own = torch.linalg.lstsq((span @ inputs).T, (weight @ inputs).T).solution.T
            lost += float((root.T @ (weight - own @ span) @ inputs).square().sum()) / run.tokens
        assert linear.energy is not None
        assert float(linear.energy[rank:].sum()) == pytest.approx(lost, rel=1e-3)


def test_states_of_several_widths_are_refused(llama, tokens):
    walk = _Measurement(original_of(llama, tokens), [], lambda done, total: None)
    with pytest.raises(UnsupportedModelError, match="5 features for one sample and of 6 for another"):
        walk._second_moment([torch.randn(1, 2, 5), torch.randn(1, 2, 6)])  # type: ignore[arg-type]
