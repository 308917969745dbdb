"""Other weights are there while a module is lent, and gone behind."""

from __future__ import annotations

import pytest
import torch
from tests.conftest import make_model
from torch import Tensor
from transformers import PreTrainedModel

from eckart.blocks.onload import ResidentWeights
from eckart.blocks.overridden_weights import OverriddenWeights
from eckart.layers import weight_matrix

CPU = torch.device("cpu")
PATHS = {
    "llama": ("model.layers.1", "mlp.up_proj"),
    "gpt2": ("transformer.h.1", "mlp.c_fc"),  # whose weight is stored as its transpose
}


def setting(kind: str, dtype: torch.dtype = torch.float32) -> tuple[PreTrainedModel, str, str, Tensor]:
    """Return a model, the path of a block, the name of a linear in it, and another weight for that."""
    model = make_model(kind).to(dtype)
    block, name = PATHS[kind]
    shape = weight_matrix(model.get_submodule(f"{block}.{name}")).shape
    return model, block, name, torch.randn(shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


@pytest.mark.parametrize("kind", PATHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_linear_has_another_weight_while_it_is_lent(kind: str, dtype: torch.dtype) -> None:
    model, block, name, other = setting(kind, dtype)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    linear = model.get_submodule(f"{block}.{name}")
    own = weight_matrix(linear).detach().clone()
    parameter = linear.weight
    weights = OverriddenWeights(ResidentWeights(), model, {f"{block}.{name}": other})
    with weights.onload(model.get_submodule(block), CPU) as onloaded:
        assert linear.weight is parameter
        lent = weight_matrix(linear)
        torch.testing.assert_close(lent.double(), other, rtol=1e-2, atol=1e-2)
        assert torch.equal(lent, other.to(lent.dtype))
        assert list(onloaded.originals) == [name]
        assert torch.equal(onloaded.originals[name].to(dtype), own)
        assert onloaded.dtype(f"{name}.weight") == dtype
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_other_modules_are_lent_as_they_are(llama: PreTrainedModel) -> None:
    weights = OverriddenWeights(ResidentWeights(), llama, {"model.layers.1.mlp.up_proj": torch.zeros(48, 32)})
    for path in ("model.layers.0", "model.embed_tokens"):
        before = {key: tensor.clone() for key, tensor in llama.get_submodule(path).state_dict().items()}
        with weights.onload(llama.get_submodule(path), CPU) as onloaded:
            assert onloaded.originals == {}
            assert all(torch.equal(t, before[key]) for key, t in onloaded.module.state_dict().items())


def test_the_whole_model_runs_with_them_but_for_what_is_skipped(llama: PreTrainedModel, tokens: Tensor) -> None:
    path = "model.layers.1.mlp.up_proj"
    other = torch.randn(48, 32, generator=torch.Generator().manual_seed(5))
    expected = make_model("llama")
    with torch.no_grad():
        plain = llama(tokens).logits
        weight_matrix(expected.get_submodule(path)).copy_(other)
        changed = expected(tokens).logits
    weights = OverriddenWeights(ResidentWeights(), llama, {path: other})
    with torch.no_grad():
        with weights.onload(llama, CPU):
            assert torch.equal(llama(tokens).logits, changed)
        with weights.onload(llama, CPU, skip=(llama.get_submodule("model.layers.1"),)) as onloaded:
            assert torch.equal(llama(tokens).logits, plain)
            assert onloaded.originals == {}
        assert torch.equal(llama(tokens).logits, plain)


def test_the_own_weight_comes_back_after_an_error(llama: PreTrainedModel) -> None:
    path = "model.layers.0.self_attn.q_proj"
    own = llama.get_parameter(f"{path}.weight").detach().clone()
    weights = OverriddenWeights(ResidentWeights(), llama, {path: torch.zeros(32, 32)})
    with pytest.raises(KeyError), weights.onload(llama, CPU):
        raise KeyError
    assert torch.equal(llama.get_parameter(f"{path}.weight"), own)


def test_what_stands_in_its_place_meanwhile_stays(llama: PreTrainedModel) -> None:
    """A layer that replaces the linear is no weight that is given back."""
    name = "self_attn.o_proj"
    path = f"model.layers.2.{name}"
    weights = OverriddenWeights(ResidentWeights(), llama, {path: torch.zeros(32, 32)})
    with weights.onload(llama.get_submodule("model.layers.2"), CPU) as onloaded:
        layer = torch.nn.Linear(32, 32)
        onloaded.replace(name, layer)
    assert llama.get_submodule(path) is layer
    assert layer.weight.any()
