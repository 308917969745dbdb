"""Adapters are put on the layers that they would be put on if the model was dense."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tests.adapters.helpers import LAYOUTS, compressed, dense_twin, difference, fill
from tests.conftest import make_model
from transformers import AutoModelForCausalLM, MixtralConfig, PreTrainedModel

import eckart
from eckart.errors import AdapterError
from eckart.layers.linear_stack import linear_stacks

peft = pytest.importorskip("peft")

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning"),
]


def targeted(model: PreTrainedModel, targets: Any, **options: Any) -> set[str]:
    found = peft.get_peft_model(model, peft.LoraConfig(target_modules=targets, **options))
    return set(found.base_model.targeted_module_names)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("targets", [None, "all-linear", r".*(gate|up)_proj.*", ["q_proj", "down_proj"]], ids=str)
def test_the_layers_are_those_of_the_dense_model(layout: str, targets: Any) -> None:
    model = compressed(layout)
    expected = targeted(dense_twin(model), targets)
    assert targeted(model, targets) == expected
    assert expected


def test_layers_can_be_left_out_and_counted() -> None:
    model = compressed("shared")
    options = {"exclude_modules": r".*layers\.0\..*"}
    expected = targeted(dense_twin(model), "all-linear", **options)
    assert targeted(model, "all-linear", **options) == expected
    assert len(expected) == 7


def test_all_layers_for_a_second_adapter() -> None:
    ours = peft.get_peft_model(compressed("pivoted"), peft.LoraConfig(target_modules=["q_proj"]))
    ours.add_adapter("other", peft.LoraConfig(target_modules="all-linear"))
    assert len(ours.base_model.targeted_module_names) == 14
    assert sum("lora_A.other" in name for name, _ in ours.named_parameters()) == 14


def test_what_is_inside_a_layer_can_be_named_too() -> None:
    model = compressed("two factors")
    found = targeted(model, r".*(q_proj|v_proj)\.(first|second)")
    assert len(found) == 8
    few = targeted(compressed("4 bits"), r".*q_proj\.first")
    assert few == {f"model.layers.{number}.self_attn.q_proj.first" for number in (0, 1)}


def test_the_head_is_left_out_where_it_is_compressed() -> None:
    model = compressed("two factors", "llama")
    assert "lm_head" not in targeted(model, "all-linear")
    headed = compressed("two factors", "llama")
    headed.lm_head = eckart.LowRankLinear(32, 256, 4, bias=False, dtype=torch.float64)
    assert not [path for path in targeted(headed, "all-linear") if "lm_head" in path]


def mixture() -> PreTrainedModel:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "vocab_size": 256}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 4}
    model = AutoModelForCausalLM.from_config(MixtralConfig(**sizes, **heads, max_position_embeddings=64)).eval()
    tokens = torch.randint(256, (8, 24), generator=torch.Generator().manual_seed(1))
    eckart.compress(model, "svd-llm", 0.6, tokens)
    return model.to(torch.float64)


def test_experts_have_an_adapter_each() -> None:
    model = mixture()
    stacks = linear_stacks(model)
    names = [f"{path}.{number}" for path in stacks for number in range(4)]
    assert len(names) == 8
    twin = mixture()
    ours = peft.get_peft_model(model, peft.LoraConfig(target_modules=names, r=2)).eval()
    fill(ours)
    tokens = torch.randint(256, (2, 12), generator=torch.Generator().manual_seed(2))
    # By hand, on the other model.
    for name in names:
        layer = ours.get_submodule(f"base_model.model.{name}")
        delta = layer.get_delta_weight("default").detach()
        twin.get_submodule(name).register_forward_hook(lambda _, args, out, delta=delta: out + args[0] @ delta.T)
    with torch.no_grad():
        expected, found = twin(tokens).logits, ours(tokens).logits
        assert difference(found, expected) < 1e-11
        merged = ours.merge_and_unload()
        assert difference(merged(tokens).logits, expected) < 1e-11
    assert {path for path in targeted(mixture(), "all-linear") if "experts" in path} == set(names)


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["q_proj"], "target_parameters": ["mlp.experts.gate_up_proj"]},
        {"target_modules": ["q_proj", "w1", "w2", "w3"]},  # the names of older versions, which PEFT makes parameters
    ],
    ids=["tensors", "older names"],
)
def test_experts_are_not_named_as_one_tensor(options: dict[str, Any]) -> None:
    message = r"tensors model\.layers\.0\.mlp\.experts\..*one compressed layer for each expert.*_proj\.0', or"
    with pytest.raises(AdapterError, match=message):
        peft.get_peft_model(mixture(), peft.LoraConfig(**options))


def test_the_table_of_an_embedding_is_no_linear_layer() -> None:
    model = make_model("llama")
    ids = torch.randint(256, (4, 8), generator=torch.Generator().manual_seed(1))
    plain, rounded = copy.deepcopy(model), copy.deepcopy(model)
    eckart.compress(plain, "svd", 0.6)
    eckart.compress(rounded, "svd", 0.6, overrides=["embedding=8-bit"])
    tuned = peft.get_peft_model(rounded, peft.LoraConfig(target_modules="all-linear"))
    assert set(tuned.base_model.targeted_module_names) == targeted(plain, "all-linear")
    tuned(input_ids=ids, labels=ids).loss.backward()
    assert any(parameter.grad is not None for parameter in tuned.parameters())


def test_a_head_that_has_no_numbers_of_its_own_is_not_trained() -> None:
    model = make_model("qwen2")  # its head is tied
    eckart.compress(model, "svd", 0.6, overrides=["embedding=8-bit"])
    for names in (["lm_head"], ["norm", "lm_head"]):
        with pytest.raises(AdapterError, match="modules_to_save names lm_head, whose weight is the table"):
            peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"], modules_to_save=names))
    assert targeted(model, ["q_proj"], modules_to_save=["norm"])
