"""LoRA on compressed layers computes what PEFT's own computes on the same weight held dense."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.adapters.helpers import LAYOUTS, MERGED, TOKENS, compressed, dense_twin, difference, fill, logits, rounding
from torch import nn
from transformers import PreTrainedModel

from eckart.errors import AdapterError
from eckart.layers import FusedLinear, PivotedLinear

peft = pytest.importorskip("peft")

# What PEFT itself asks of transformers; and what a compression says of biases and of sizes.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`(is_gradient_checkpointing|gradient_checkpointing_enable)`:FutureWarning"),
    pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning"),
]
layouts = pytest.mark.parametrize("layout", LAYOUTS)
merged = pytest.mark.parametrize("layout", MERGED)
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def config(**options: Any) -> Any:
    return peft.LoraConfig(**{"r": 2, "lora_alpha": 3, "target_modules": ALL, **options})


def tuned(model: PreTrainedModel, **options: Any) -> Any:
    """Return a model with an adapter of numbers that depend on names alone."""
    found = peft.get_peft_model(model, config(**options)).eval()
    fill(found)
    return found


def pair(layout: str, **options: Any) -> tuple[Any, Any]:
    """Return a compressed model and a dense one that computes the same, with the same adapter."""
    model = compressed(layout)
    twin = dense_twin(model)
    return tuned(model, **options), tuned(twin, **options)


@layouts
def test_logits_and_gradients_are_those_of_the_dense_model(layout: str) -> None:
    ours, theirs = pair(layout, use_rslora=True)
    assert difference(logits(ours), logits(theirs)) < 1e-11
    for model in (ours, theirs):
        model(input_ids=TOKENS, labels=TOKENS).loss.backward()
    expected = {name: parameter.grad for name, parameter in theirs.named_parameters() if parameter.requires_grad}
    found = {name: parameter.grad for name, parameter in ours.named_parameters() if parameter.requires_grad}
    assert expected.keys() == found.keys()
    assert len(found) == 2 * 7 * 2
    for name, gradient in found.items():
        assert gradient is not None
        torch.testing.assert_close(gradient, expected[name])


@layouts
def test_off_and_on_again(layout: str) -> None:
    model = compressed(layout)
    before = logits(model)
    ours = tuned(model)
    on = logits(ours)
    assert difference(on, before) > 0.1
    with ours.disable_adapter():
        assert torch.equal(logits(ours), before)
    assert torch.equal(logits(ours), on)
    assert torch.equal(logits(ours.unload()), before)


@pytest.mark.parametrize("layout", ["two factors", "pivoted", "hybrid", "shared", "4 bits", "4 bits, shared"])
def test_several_adapters_at_once_and_in_one_batch(layout: str) -> None:
    ours, theirs = pair(layout)
    for model in (ours, theirs):
        model.add_adapter("other", config(r=3, target_modules=["q_proj", "k_proj", "down_proj"]))
        fill(model, seed=1)
        model.eval()
    names = ["default", "other", "__base__", "other"]
    assert difference(logits(ours, adapter_names=names), logits(theirs, adapter_names=names)) < 1e-11
    single = logits(ours)
    for model in (ours, theirs):
        model.base_model.set_adapter(["default", "other"])
    both = logits(ours)
    assert difference(both, logits(theirs)) < 1e-11
    assert difference(both, single) > 0.01
    ours.set_adapter("default")
    ours.delete_adapter("other")
    assert torch.equal(logits(ours), single)


@merged
def test_merged_it_computes_the_same_and_unmerged_it_has_its_numbers_back(layout: str) -> None:
    model = compressed(layout)
    before = {name: (tensor, tensor.clone()) for name, tensor in model.state_dict(keep_vars=True).items()}
    ours = tuned(model)
    ours.add_adapter("other", config(r=1, target_modules=["k_proj", "up_proj"]))
    fill(ours)
    ours.base_model.set_adapter(["default", "other"])
    apart = logits(ours)
    ours.merge_adapter(["other"])
    with pytest.warns(UserWarning, match="now additionally merging default"):
        ours.merge_adapter(safe_merge=True)
    assert difference(logits(ours), apart) < 1e-11
    ours.unmerge_adapter()
    assert torch.equal(logits(ours), apart)
    after = ours.unload().state_dict(keep_vars=True)
    assert after.keys() == before.keys()
    assert all(after[name].data_ptr() == tensor.data_ptr() for name, (tensor, _) in before.items())
    assert all(torch.equal(after[name], numbers) for name, (_, numbers) in before.items())


@merged
def test_a_merged_adapter_that_is_disabled(layout: str) -> None:
    """PEFT unmerges layer by layer while the model runs; parts that share a layer must not see what was computed."""
    model = compressed(layout)
    before = logits(model)
    ours = tuned(model)
    ours.merge_adapter()
    with ours.disable_adapter():
        assert torch.equal(logits(ours), before)
    with pytest.warns(UserWarning, match="Already unmerged"):
        ours.unmerge_adapter()


@pytest.mark.parametrize("layout", ["8 bits", "4 bits, pivoted", "4 bits, shared", "4 bits, whole", "remapped"])
def test_few_bits_are_not_merged(layout: str) -> None:
    ours = tuned(compressed(layout))
    apart = logits(ours)
    with pytest.raises(AdapterError, match=r"cannot be merged into model\.layers\.0.*few bits.*dequantize"):
        ours.merge_and_unload()
    assert torch.equal(logits(ours), apart)
    layer = ours.get_submodule("base_model.model.model.layers.0.self_attn.q_proj")
    with pytest.raises(AdapterError, match="few bits"):
        layer.merge()
    assert not layer.merged


def test_an_adapter_that_is_broken_is_not_merged() -> None:
    ours = tuned(compressed("two factors"))
    with torch.no_grad():
        next(p for name, p in ours.named_parameters() if "lora_B" in name).fill_(torch.nan)
    with pytest.raises(AdapterError, match="The adapter default holds numbers that are NaN"):
        ours.merge_adapter(safe_merge=True)


def test_biases_are_trained_and_not_merged() -> None:
    ours, theirs = pair("two factors", lora_bias=True, target_modules=["q_proj"])
    assert difference(logits(ours), logits(theirs)) < 1e-11
    with pytest.raises(AdapterError, match=r"has biases \(lora_bias\)"):
        ours.merge_adapter()


@pytest.mark.parametrize(
    "options",
    [{"use_dora": True}, {"init_lora_weights": "pissa"}, {"init_lora_weights": "olora"}, {"init_lora_weights": "mica"}],
    ids=str,
)
def test_more_than_lora_is_refused_by_name(options: dict[str, Any]) -> None:
    (name, value), model = next(iter(options.items())), compressed("two factors")
    with pytest.raises(AdapterError, match=rf"Found {name}={value!r} in the LoraConfig; .*plain LoRA.*dequantize"):
        peft.get_peft_model(model, config(**options))


@pytest.mark.parametrize("start", [True, "gaussian", "orthogonal"])
def test_a_new_adapter_changes_nothing_but_by_its_own_start(start: bool | str) -> None:
    model = compressed("pivoted")
    before = logits(model)
    ours = peft.get_peft_model(model, config(init_lora_weights=start)).eval()
    assert torch.equal(logits(ours), before) == (start != "orthogonal")


def test_the_weight_of_an_adapter() -> None:
    ours, theirs = pair("shared")
    path = "base_model.model.model.layers.1.self_attn.k_proj"
    torch.testing.assert_close(
        ours.get_submodule(path).get_delta_weight("default"), theirs.get_submodule(path).get_delta_weight("default")
    )
    assert ours.get_submodule(path).weight.shape == (16, 32)


def watched(layer: nn.Module) -> list[torch.Tensor]:
    seen: list[torch.Tensor] = []
    layer.register_forward_hook(lambda _, args, output: seen.append(output))
    return seen


def test_layers_that_share_one_still_run_it_once() -> None:
    model = compressed("shared")
    leader = model.get_submodule("model.layers.0.self_attn.q_proj")
    assert isinstance(leader, FusedLinear)
    seen = watched(leader.joint)
    logits(tuned(model))
    assert len(seen) == 1


@pytest.mark.parametrize("layout", ["two factors", "shared", "pivoted", "4 bits"])
def test_sixteen_bits_with_adapters_of_more(layout: str) -> None:
    """PEFT holds an adapter in float32; inputs are cast for it, and outputs keep the model's dtype."""
    model = compressed(layout, dtype=torch.bfloat16)
    ours = tuned(model)
    adapters = {p.dtype for name, p in ours.named_parameters() if "lora_" in name}
    assert adapters == {torch.float32}
    found = logits(ours)
    assert found.dtype == torch.bfloat16
    whole = copy.deepcopy(ours).to(torch.float64)
    assert rounding(found, logits(whole)) < 0.06
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours(input_ids=TOKENS, labels=TOKENS).loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in ours.parameters() if p.requires_grad)


@pytest.mark.parametrize("layout", ["two factors", "pivoted", "hybrid"])
def test_merged_into_sixteen_bits(layout: str) -> None:
    ours = tuned(compressed(layout, dtype=torch.bfloat16))
    apart = logits(ours)
    whole = logits(copy.deepcopy(ours).to(torch.float64))
    ours.merge_adapter()
    found = logits(ours)
    assert found.dtype == torch.bfloat16
    assert rounding(found, whole) < 2 * rounding(apart, whole)


@pytest.mark.parametrize("layout", ["shared", "pivoted", "4 bits, shared"])
def test_gradients_with_blocks_run_again(layout: str) -> None:
    def gradients(prepare: Callable[[Any], None]) -> list[torch.Tensor]:
        ours = tuned(compressed(layout))
        ours.train()
        prepare(ours)
        ours(input_ids=TOKENS, labels=TOKENS).loss.backward()
        return [parameter.grad for parameter in ours.parameters() if parameter.requires_grad]

    def again(ours: Any) -> None:
        ours.gradient_checkpointing_enable({"use_reentrant": False})

    for plain, checkpointed in zip(gradients(lambda ours: None), gradients(again), strict=True):
        torch.testing.assert_close(plain, checkpointed)


def test_dropout_is_that_of_the_adapter_alone() -> None:
    model = compressed("two factors")
    before = logits(model)
    ours = peft.get_peft_model(model, config(lora_dropout=0.9)).train()
    assert torch.equal(logits(ours), before)  # B is zero
    fill(ours)
    assert not torch.equal(logits(ours), logits(ours))
    ours.eval()
    assert torch.equal(logits(ours), logits(ours))


def test_layers_of_transposed_weights() -> None:
    model = compressed("pivoted", "gpt2")
    twin = dense_twin(model)
    targets = ["c_attn", "c_fc"]
    theirs = tuned(twin, target_modules=targets, fan_in_fan_out=True)
    ours = tuned(model, target_modules=targets, fan_in_fan_out=True)
    assert any(isinstance(module, PivotedLinear) for module in ours.modules())
    apart = logits(ours)
    assert difference(apart, logits(theirs)) < 1e-11
    ours.merge_adapter()
    assert difference(logits(ours), apart) < 1e-11
