from __future__ import annotations

import pytest
import torch
from tests.conftest import make_model
from tests.methods.sensitivity.helpers import original_of
from transformers import PreTrainedModel

import eckart
from eckart.compression.share_by_loss import share_by_loss
from eckart.layers import fused_layers, weight_matrix
from eckart.methods.allocation import Budgets
from eckart.methods.layout import Layout
from eckart.methods.recipes.loader import load_recipe


def lost(weight: torch.Tensor, inputs: torch.Tensor, keep: float) -> float:
    """Return the loss of a truncation, by brute force."""
    out_features, in_features = weight.shape
    rank = Layout().rank_of_share(out_features, in_features, keep)
    values = torch.linalg.svdvals(weight.double() @ inputs.double().T)
    return 0.0 if rank is None else float(values[rank:].square().sum())


def alike(model: PreTrainedModel) -> PreTrainedModel:
    """Give q, k and v of one block rows of the same few directions: one basis serves them all."""
    attention = model.model.layers[1].self_attn
    basis = torch.randn(6, 32, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        for name in "qkv":
            weight = getattr(attention, f"{name}_proj").weight
            weight.copy_(torch.randn(len(weight), 6, generator=torch.Generator().manual_seed(4)) @ basis * 0.2)
    return model


@pytest.mark.parametrize("keep", [0.4, 0.8])
def test_those_groups_are_joined_that_lose_less(keep: float, tokens: torch.Tensor) -> None:
    model = alike(make_model("llama"))
    expected = set()
    inputs: dict[str, torch.Tensor] = {}
    first_members = {".self_attn.q_proj": "qkv", ".mlp.gate_proj": ("gate", "up")}
    handles = [
        module.register_forward_pre_hook(lambda _, args, path=path: inputs.update({path: args[0].flatten(0, 1)}))
        for path, module in model.named_modules()
        if path.endswith(tuple(first_members))
    ]
    with torch.no_grad():
        model(tokens)
    for handle in handles:
        handle.remove()
    for path, seen in inputs.items():
        parent, name = path.rsplit(".", 1)
        names = first_members[f".{parent.rsplit('.', 1)[1]}.{name}"]
        weights = [weight_matrix(model.get_submodule(f"{parent}.{member}_proj")).detach() for member in names]
        if lost(torch.cat(weights), seen, keep) <= sum(lost(weight, seen, keep) for weight in weights):
            expected.add(path)
    assert "model.layers.1.self_attn.q_proj" in expected
    steps: list[tuple[int, int]] = []
    found, budgets = share_by_loss(
        original_of(model, tokens),
        load_recipe("svd-llm"),
        Budgets(keep),
        lambda done, total: steps.append((done, total)),
    )
    assert budgets == Budgets(keep)
    assert set(fused_layers(model)) == expected
    assert steps == [(number, 6) for number in range(1, 7)]
    paths = {ref.path for block in found.blocks for ref in block.linears}
    assert {f"{path}.joint" for path in expected} <= paths


@pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning")
@pytest.mark.parametrize(
    "overrides",
    [
        ["allocation=uniform"],
        ["objective.metric=fisher", "allocation=curvature"],
        ["allocation=zero-sum", "allocation.stages=2"],
        ["refinement=block", "refinement.epochs=1", "refinement.batch=2", "structure=pivoted"],
    ],
    ids=str,
)
def test_works_with_what_a_recipe_may_say(overrides: list[str], tokens: torch.Tensor) -> None:
    model = alike(make_model("llama"))
    report = eckart.compress(model, "svd-llm", 0.6, tokens, overrides=["sharing=by-loss", *overrides])
    assert "model.layers.1.self_attn.q_proj.joint" in [layer.path for layer in report.layers]
    assert 0.5 < report.keep <= 0.6
    assert torch.isfinite(model(tokens).logits).all()
