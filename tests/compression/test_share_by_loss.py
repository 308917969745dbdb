from __future__ import annotations

import pytest
import torch
from tests.conftest import make_model
from tests.methods.sensitivity.helpers import original_of
from transformers import DbrxConfig, DbrxForCausalLM, MixtralConfig, MixtralForCausalLM, PreTrainedModel

import eckart
from eckart.blocks.expert_stacks import expand
from eckart.blocks.onload import ResidentWeights
from eckart.compression.share_by_loss import share_by_loss
from eckart.layers import fused_layers, weight_matrix
from eckart.methods.allocation import Budgets
from eckart.methods.layout import Layout
from eckart.methods.recipes.loader import load_recipe
from eckart.sweep.case import recipe_of


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


def of_one_space(weight: torch.Tensor, seed: int) -> torch.Tensor:
    """Return weights (experts, m, n) whose rows are of the same few directions."""
    generator = torch.Generator().manual_seed(seed)
    experts, out_features, in_features = weight.shape
    basis = torch.randn(6, in_features, generator=generator)
    return torch.randn(experts, out_features, 6, generator=generator) @ basis * 0.05


def of_own_spaces(weight: torch.Tensor, seed: int) -> torch.Tensor:
    """Return weights (experts, m, n) of which each has its own directions, at right angles to those of the others."""
    generator = torch.Generator().manual_seed(seed)
    experts, out_features, in_features = weight.shape
    bases = torch.linalg.qr(torch.randn(in_features, in_features, generator=generator))[0]
    parts = bases.view(experts, in_features // experts, in_features)
    found: torch.Tensor = torch.randn(experts, out_features, in_features // experts, generator=generator) @ parts * 0.1
    return found


def mixture_of_one_basis() -> MixtralForCausalLM:
    """Return a mixture whose experts have one space of inputs in the second block, and one each in the first."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 256, "hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    model = MixtralForCausalLM(MixtralConfig(**sizes, **heads, num_local_experts=4)).eval()
    experts = [block.mlp.experts for block in model.model.layers]
    with torch.no_grad():
        experts[0].gate_up_proj.copy_(of_own_spaces(experts[0].gate_up_proj, 0))
        experts[1].gate_up_proj.copy_(of_one_space(experts[1].gate_up_proj, 1))
    return model


def test_experts_share_a_basis_where_their_weights_have_one(tokens: torch.Tensor) -> None:
    model = mixture_of_one_basis()
    expand(model, ResidentWeights())
    steps: list[tuple[int, int]] = []
    found, budgets = share_by_loss(
        original_of(model, tokens),
        load_recipe("svd-llm"),
        Budgets(0.35),
        lambda done, total: steps.append((done, total)),
    )
    fused = {path for path in fused_layers(model) if "experts" in path}
    assert fused == {"model.layers.1.mlp.experts.gate_up_proj.0"}
    assert budgets == Budgets(0.35)
    assert steps == [(number, 6) for number in range(1, 7)]
    assert [ref.runs for ref in found.blocks[1].linears if ref.path.endswith("gate_up_proj.0.joint")] == [4]


def test_gate_and_up_of_each_expert_share_a_basis_where_experts_do_not(tokens: torch.Tensor) -> None:
    torch.manual_seed(0)
    sizes = {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64, "vocab_size": 256}
    model = DbrxForCausalLM(
        DbrxConfig(
            **sizes,
            attn_config={"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0},
            ffn_config={"ffn_hidden_size": 24, "moe_num_experts": 4, "moe_top_k": 2},
        )
    ).eval()
    with torch.no_grad():
        for block, make in zip(model.transformer.blocks, (of_own_spaces, of_one_space), strict=True):
            for name in ("w1", "v1"):
                parameter = block.ffn.experts.mlp.get_parameter(name)
                parameter.copy_(make(parameter.view(4, 24, 32), 3).view_as(parameter))
    expand(model, ResidentWeights())
    share_by_loss(original_of(model, tokens), load_recipe("svd-llm"), Budgets(0.35), lambda done, total: None)
    groups = {path: paths for path, paths in fused_layers(model).items() if "ffn" in path}
    place = "transformer.blocks.{}.ffn.experts.mlp.{}.{}"
    expected = {
        place.format(0, "w1", number): [place.format(0, name, number) for name in ("w1", "v1")] for number in range(4)
    }
    every = [place.format(1, name, number) for number in range(4) for name in ("w1", "v1")]
    assert groups == {**expected, every[0]: every}


@pytest.mark.parametrize("recipe", ["zs-svd", "svd-llm+allocation=curvature"])
def test_experts_stay_apart_where_ranks_are_by_gradients(recipe: str, tokens: torch.Tensor) -> None:
    """The loss at one share for all does not show what it is worth to cut those that hardly matter."""
    model = mixture_of_one_basis()
    expand(model, ResidentWeights())
    share_by_loss(original_of(model, tokens), recipe_of(recipe), Budgets(0.35), lambda done, total: None)
    assert not {path for path in fused_layers(model) if "gate_up_proj.0" in path}
