from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import transformers as t
from tests.listed import ListedConfig, ListedMixture
from torch import Tensor, nn

from eckart.blocks.block import Expert, Group, LinearRef
from eckart.blocks.mixture_run import lending, watched
from eckart.blocks.rankings import OtherRankingsError

EXPERTS, WIDTH, INNER, TOKENS = 3, 8, 6, 20


def block(seed: int = 0) -> Any:
    """Return a block that is a mixture and nothing else."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": WIDTH, "intermediate_size": INNER, "num_attention_heads": 2}
    return nn.ModuleDict({"mlp": ListedMixture(ListedConfig(**sizes, experts=EXPERTS))}).requires_grad_(False)


def groups() -> list[Group]:
    found = []
    for number in range(EXPERTS):
        expert = Expert("mlp", f"experts.{number}", inner=True, last=f"mlp.experts.{number}.down_proj")
        found.append(Group((LinearRef(expert.last, expert.last, WIDTH, INNER),), True, True, "down", expert))
    return found


def hidden(seed: int = 1) -> Tensor:
    return torch.randn(2, TOKENS // 2, WIDTH, generator=torch.Generator().manual_seed(seed))


def handed(module: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return which experts a mixture chooses, and with which weights."""
    router: Any = module
    weights, chosen = router.router(inputs.flatten(0, 1)).softmax(dim=-1).topk(2, dim=-1)
    return chosen, weights / weights.sum(dim=-1, keepdim=True)


def test_a_run_is_as_it_would_be_and_its_weights_are_those_of_the_router() -> None:
    module, inputs = block(), hidden()
    expected = module["mlp"](inputs)
    with watched(module, groups()) as runs:
        found = module["mlp"](inputs)
    assert torch.equal(found, expected)
    assert not found.requires_grad
    assert "forward" not in vars(module["mlp"])
    run = runs["mlp"]
    assert run.hidden is inputs
    chosen, weights = handed(module["mlp"], inputs)
    assert run.weights is not None
    for number in range(EXPERTS):
        rows, place = torch.where(chosen == number)
        torch.testing.assert_close(run.weights[f"experts.{number}"], weights[rows, place].square())


def test_without_gradients_nothing_is_known_of_weights() -> None:
    module = block()
    module["mlp"].forward = torch.no_grad()(module["mlp"].forward)
    with watched(module, groups()) as runs:
        module["mlp"](hidden())
    assert runs["mlp"].weights is None
    with watched(module, groups(), weigh=False) as runs:
        module["mlp"](hidden())
    assert runs["mlp"].weights is None


def test_what_the_router_gives_beside_is_not_what_the_mixture_gives() -> None:
    module, inputs = block().requires_grad_(True), hidden()
    with watched(module, groups()) as runs:
        module["mlp"](inputs)
    expected = runs["mlp"].weights
    assert expected is not None
    alone = module["mlp"].forward
    module["mlp"].forward = lambda given: (module["mlp"].router(given), alone(given))
    with watched(module, groups()) as runs:
        logits, found = module["mlp"](inputs)
    assert not logits.requires_grad
    assert not found.requires_grad
    weights = runs["mlp"].weights
    assert weights is not None
    assert all(torch.equal(weights[path], expected[path]) for path in expected)


def test_other_hidden_states_go_where_the_first_ones_went() -> None:
    module, first, second = block(), hidden(), hidden(2)
    with watched(module, groups()) as runs:
        module["mlp"](first)
    chosen, _ = handed(module["mlp"], first)
    assert not torch.equal(chosen, handed(module["mlp"], second)[0])
    original = copy.deepcopy(block(3)["mlp"].experts[1].gate_proj)
    seen: list[Tensor] = []
    original.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    before = module["mlp"].experts[1].gate_proj
    with lending(module, {"mlp.experts.1.gate_proj": original}):
        runs["mlp"].again(second)
    assert module["mlp"].experts[1].gate_proj is before
    (rows, _), (inputs,) = torch.where(chosen == 1), seen
    assert torch.equal(inputs, second.flatten(0, 1)[rows])


def test_a_mixture_that_would_choose_in_another_way_is_refused() -> None:
    module = block()
    with watched(module, groups()) as runs:
        module["mlp"](hidden())
    with pytest.raises(OtherRankingsError):
        runs["mlp"].again(hidden()[:1])
    runs["mlp"].rankings.append(runs["mlp"].rankings[0])
    with pytest.raises(OtherRankingsError):
        runs["mlp"].again(hidden())


def test_experts_that_are_handed_the_routing_by_name() -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": WIDTH, "intermediate_size": INNER, "num_attention_heads": 2}
    config = t.MixtralConfig(**sizes, num_local_experts=EXPERTS, num_experts_per_tok=2)
    layer = t.MixtralForCausalLM(config).model.layers[0]
    seen: list[Any] = []

    def forward(**kwargs: Any) -> Tensor:
        seen.append(kwargs)
        return torch.mul(kwargs["hidden_states"], 2)

    layer.mlp.experts.forward = forward
    place = "mlp.experts"
    expert = Expert(place, "0", inner=False, last="self_attn.q_proj")  # any linear that the run does not reach
    group = Group((LinearRef(expert.last, expert.last, WIDTH, WIDTH),), True, True, "up", expert)
    first, second = torch.ones(4, WIDTH), torch.zeros(4, WIDTH)
    numbers = torch.arange(4)[:, None]
    with watched(layer, [group]) as runs:
        layer.mlp.experts(top_k_weights=torch.ones(4, 1), top_k_index=numbers, hidden_states=first)
        run = runs[place]
    assert run.weights is None
    assert run.hidden is first
    assert torch.equal(run.again(second), second)
    assert seen[-1]["top_k_index"] is numbers
    assert seen[-1]["hidden_states"] is not first
