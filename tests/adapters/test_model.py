"""Adapters of whole models: trained, saved, loaded, merged, as users of PEFT and of transformers do it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers.integrations.peft
from tests.adapters.helpers import LAYOUTS, MERGED, compressed, dense_twin, difference, fill, logits
from tests.conftest import make_model
from transformers import AutoModelForCausalLM, PreTrainedModel

import eckart
from eckart.errors import AdapterError
from eckart.layers import FactoredLinear, PivotedLinear

peft = pytest.importorskip("peft")

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning"),
]
layouts = pytest.mark.parametrize("layout", LAYOUTS)
merged = pytest.mark.parametrize("layout", MERGED)


def adapted(model: PreTrainedModel, seed: int = 0, **options: Any) -> Any:
    found = peft.get_peft_model(model, peft.LoraConfig(**{"r": 2, "target_modules": "all-linear", **options})).eval()
    fill(found, seed)
    return found


@layouts
def test_an_adapter_of_the_dense_model_is_put_onto_the_compressed_one(layout: str, tmp_path: Path) -> None:
    model = compressed(layout)
    theirs = adapted(dense_twin(model))
    theirs.save_pretrained(tmp_path)
    ours = peft.PeftModel.from_pretrained(model, tmp_path).eval()
    assert difference(logits(ours), logits(theirs)) < 1e-11
    # And back again.
    ours.save_pretrained(tmp_path / "again")
    twin = dense_twin(compressed(layout))
    assert difference(logits(peft.PeftModel.from_pretrained(twin, tmp_path / "again").eval()), logits(theirs)) < 1e-11


@merged
def test_merged_saved_and_loaded(layout: str, tmp_path: Path) -> None:
    model = compressed(layout)
    before = {path: module.rank for path, module in model.named_modules() if isinstance(module, FactoredLinear)}
    ours = adapted(model)
    apart = logits(ours)
    model = ours.merge_and_unload(safe_merge=True)
    whole = logits(model)
    assert difference(whole, apart) < 1e-11
    ranks = {path: module.rank for path, module in model.named_modules() if isinstance(module, FactoredLinear)}
    assert ranks == {path: model.config.quantization_config.ranks[path] for path in ranks}
    added = {
        path: 2 * len(model.get_submodule(path.removesuffix(".joint")).sizes) if "joint" in path else 2
        for path in ranks
    }
    limits = {path: min(m.in_features, m.out_features) for path in ranks for m in [model.get_submodule(path)]}
    assert ranks == {path: min(before[path] + added[path], limits[path]) for path in ranks}
    assert not [name for module in model.modules() for name in vars(module) if "growth" in name]
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64)
    assert torch.equal(logits(again), whole)


def test_pivots_that_were_in_order_are_no_more(tmp_path: Path) -> None:
    model = compressed("pivoted")
    path, layer = next((path, m) for path, m in model.named_modules() if isinstance(m, PivotedLinear))
    layer.index = None
    model.config.quantization_config.ordered = [path]
    ours = adapted(model)
    apart = logits(ours)
    model = ours.merge_and_unload()
    assert difference(logits(model), apart) < 1e-11
    assert model.config.quantization_config.ordered == []
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64)
    assert difference(logits(again), apart) < 1e-11


def test_a_model_that_is_merged_can_be_adapted_again() -> None:
    model = adapted(compressed("shared, pivoted")).merge_and_unload()
    before = logits(model)
    again = adapted(model, seed=3)
    apart = logits(again)
    again.merge_adapter()
    assert difference(logits(again), apart) < 1e-11
    again.unmerge_adapter()
    assert torch.equal(logits(again.unload()), before)


def test_nothing_is_merged_where_something_cannot_be() -> None:
    model = compressed("pivoted")
    ours = adapted(model, r=15)  # k and v have 16 outputs
    apart = logits(ours)
    with pytest.raises(AdapterError, match=r"_proj \(nor into \d+ others\): its rank would be \d+, and pivots of"):
        ours.merge_adapter()
    assert not any(getattr(module, "merged", False) for module in ours.modules())
    assert torch.equal(logits(ours), apart)
    ours.merge_adapter([])


def test_a_copy_with_a_merged_adapter() -> None:
    ours = adapted(compressed("shared"))
    apart = logits(ours)
    ours.merge_adapter()
    twin = copy.deepcopy(ours)
    twin.unmerge_adapter()
    assert torch.equal(logits(twin), apart)
    assert next(m for m in ours.modules() if isinstance(m, FactoredLinear)).rank > 0
    assert difference(logits(ours), apart) < 1e-11
    ours.unmerge_adapter()
    assert torch.equal(logits(ours), apart)


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")
@pytest.mark.parametrize("layout", ["two factors", "shared", "4 bits"])
def test_adapters_of_transformers_itself(layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # It asks for a version of PEFT that may not be out yet.
    monkeypatch.setattr(transformers.integrations.peft, "MIN_PEFT_VERSION", "0.18.0")
    model = compressed(layout)
    theirs = adapted(dense_twin(model), target_modules=["q_proj", "v_proj"])
    theirs.save_pretrained(tmp_path)
    before = logits(model)
    model.load_adapter(str(tmp_path))
    assert difference(logits(model), logits(theirs)) < 1e-11
    model.disable_adapters()
    assert torch.equal(logits(model), before)
    model.enable_adapters()
    model.add_adapter(peft.LoraConfig(target_modules="all-linear"), "new")
    assert torch.equal(logits(model), before)
    assert len([name for name, p in model.named_parameters() if p.requires_grad and "new" in name]) == 28


def test_dense_models_are_as_they_were() -> None:
    model = dense_twin(compressed("two factors"))
    found = adapted(model)
    assert not found.peft_config["default"]._custom_modules
    assert {type(m).__module__ for m in found.modules() if type(m).__name__ == "Linear"} == {
        "peft.tuners.lora.layer",
        "torch.nn.modules.linear",
    }
    apart = logits(found)
    assert difference(logits(found.merge_and_unload()), apart) < 1e-11


def test_a_users_own_layers_go_first() -> None:
    class Own(torch.nn.Linear):
        pass

    config = peft.LoraConfig(target_modules=["q_proj"])
    config._register_custom_module({eckart.LowRankLinear: lambda *args, **kwargs: Own(2, 2)})
    ours = peft.get_peft_model(compressed("two factors"), config)
    assert any(isinstance(module, Own) for module in ours.modules())


def test_an_adapter_is_not_merged_into_what_holds_some_of_its_outputs() -> None:
    model = make_model("llama")
    eckart.compress(model, "modegpt", 0.75, torch.randint(3, 200, (4, 24)))
    tuned = peft.get_peft_model(model, peft.LoraConfig(target_modules="all-linear", init_lora_weights=False))
    before = {name: tensor.clone() for name, tensor in tuned.state_dict().items()}
    with pytest.raises(AdapterError, match="holds some of its outputs or inputs only"):
        tuned.merge_adapter()
    assert all(torch.equal(tensor, before[name]) for name, tensor in tuned.state_dict().items())
