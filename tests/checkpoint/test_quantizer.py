"""What was written loads with plain transformers, in every way that transformers loads."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.conftest import CONFIGS, VOCABULARY, dealt, make_model
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedModel

import eckart
from eckart.checkpoint import register
from eckart.checkpoint.files import INDEX_NAME
from eckart.errors import CheckpointError
from eckart.layers import FactoredLinear
from eckart.methods.structure import STRUCTURES


def logits(model: PreTrainedModel, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(tokens.to(model.device)).logits
    return found.float().cpu()


def assert_same(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = 1e-5) -> None:
    assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


@pytest.fixture(scope="module", params=[*(f"structure={name}" for name in STRUCTURES), "sharing=shared"])
def once(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PreTrainedModel]:
    """A compressed Llama on disk, and the model in memory that it was written from; for all tests of the file."""
    model = make_model("llama")
    tokens = torch.randint(VOCABULARY, (12, 24), generator=torch.Generator().manual_seed(1))
    report = eckart.compress(model, "aa-svd-layer", 0.6, tokens, overrides=[request.param])
    folder = tmp_path_factory.mktemp("once") / "small"
    eckart.save(model, report, folder)
    return folder, model


@pytest.fixture
def saved(once: tuple[Path, PreTrainedModel], tmp_path: Path) -> tuple[Path, PreTrainedModel]:
    """The same, for one test to change."""
    folder, model = once
    return shutil.copytree(folder, tmp_path / "small"), copy.deepcopy(model)


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["quantization_config"].update(changes)
    path.write_text(json.dumps(config))


def tensor_in(model: PreTrainedModel, path: str) -> str:
    """Return the name of the first tensor in a layer, which depends on its kind."""
    return next(str(name) for name in model.state_dict() if name.startswith(f"{path}."))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    (shard,) = folder.glob("*.safetensors")
    tensors = load_file(shard)
    change(tensors)
    save_file(tensors, shard, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("kind", "recipe", "structure"),
    dealt([*CONFIGS, *CONFIGS], ["svd", "aa-svd-layer"], [name for name in STRUCTURES for _ in range(2)]),
)
def test_logits_survive_the_disk(kind: str, recipe: str, structure: str, tmp_path: Path, tokens: torch.Tensor) -> None:
    model = make_model(kind)
    dense = logits(model, tokens)
    report = eckart.compress(model, recipe, 0.6, tokens, overrides=[f"structure={structure}"])
    eckart.save(model, report, tmp_path / "small")
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path / "small", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert_same(logits(loaded, tokens), logits(model, tokens))
    assert not torch.allclose(logits(loaded, tokens), dense, rtol=1e-2)
    layer_class = STRUCTURES[structure].layer
    assert sum(isinstance(module, layer_class) for module in loaded.modules()) == len(report.ranks)
    assert type(loaded).__name__ == loaded.config.architectures[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtype(saved: tuple[Path, PreTrainedModel], dtype: torch.dtype, tokens: torch.Tensor) -> None:
    folder, model = saved
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
    ours, theirs = logits(loaded, tokens), logits(model, tokens)
    assert (ours - theirs).norm() < (1e-5 if dtype is torch.float32 else 0.1) * theirs.norm()


@pytest.mark.parametrize("device_map", ["cpu", "auto", {"": "cpu"}])
def test_device_map(saved: tuple[Path, PreTrainedModel], device_map: object, tokens: torch.Tensor) -> None:
    folder, model = saved
    assert_same(
        logits(AutoModelForCausalLM.from_pretrained(folder, device_map=device_map), tokens), logits(model, tokens)
    )


def test_layers_on_disk(saved: tuple[Path, PreTrainedModel], tmp_path: Path, tokens: torch.Tensor) -> None:
    folder, model = saved
    device_map = {"model.embed_tokens": "cpu", "model.layers": "disk", "model.norm": "cpu", "lm_head": "cpu"}
    device_map |= {"model.rotary_emb": "cpu"}
    loaded = AutoModelForCausalLM.from_pretrained(folder, device_map=device_map, offload_folder=tmp_path / "offload")
    assert_same(logits(loaded, tokens), logits(model, tokens))


def test_shards(tmp_path: Path, llama: PreTrainedModel, tokens: torch.Tensor) -> None:
    report = eckart.compress(llama, "svd-llm", 0.6, tokens)
    eckart.save(llama, report, tmp_path / "small", max_shard_size="20KB")
    assert len(list((tmp_path / "small").glob("eckart-*.safetensors"))) > 3
    assert_same(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "small"), tokens), logits(llama, tokens))


def test_without_its_head(saved: tuple[Path, PreTrainedModel], tokens: torch.Tensor) -> None:
    folder, model = saved
    base = AutoModel.from_pretrained(folder)
    with torch.no_grad():
        assert_same(base(tokens).last_hidden_state, model.model(tokens).last_hidden_state)


def test_saving_again_by_transformers(
    saved: tuple[Path, PreTrainedModel], tmp_path: Path, tokens: torch.Tensor
) -> None:
    folder, model = saved
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(tmp_path / "again")
    assert_same(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "again"), tokens), logits(model, tokens))
    # And straight from memory, without this library's own writer.
    model.save_pretrained(tmp_path / "memory")
    assert_same(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "memory"), tokens), logits(model, tokens))


def test_a_config_that_was_loaded_can_be_handed_back(saved: tuple[Path, PreTrainedModel], tokens: torch.Tensor) -> None:
    folder, model = saved
    config = AutoModelForCausalLM.from_pretrained(folder).config
    copied = copy.deepcopy(config)
    copied.quantization_config.weights = INDEX_NAME
    assert_same(logits(AutoModelForCausalLM.from_pretrained(folder, config=copied), tokens), logits(model, tokens))


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2"])
@pytest.mark.parametrize("structure", STRUCTURES)
def test_dequantize_gives_a_dense_model(kind: str, structure: str, tmp_path: Path, tokens: torch.Tensor) -> None:
    model = make_model(kind)
    classes = [type(module) for module in model.modules()]
    report = eckart.compress(model, "svd-llm", 0.6, tokens, overrides=[f"structure={structure}"])
    eckart.save(model, report, tmp_path / "small")
    dense = AutoModelForCausalLM.from_pretrained(tmp_path / "small").dequantize()
    assert [type(module) for module in dense.modules()] == classes
    assert_same(logits(dense, tokens), logits(model, tokens))
    dense.save_pretrained(tmp_path / "dense")
    assert "quantization_config" not in json.loads((tmp_path / "dense" / "config.json").read_text())
    assert_same(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "dense"), tokens), logits(model, tokens))


def test_factors_train(saved: tuple[Path, PreTrainedModel], tokens: torch.Tensor) -> None:
    model = AutoModelForCausalLM.from_pretrained(saved[0])
    model(tokens, labels=tokens).loss.backward()
    layer = next(module for module in model.modules() if isinstance(module, FactoredLinear))
    assert all(parameter.grad is not None and parameter.grad.norm() > 0 for parameter in layer.parameters())


def test_without_the_library_it_fails_loudly(llama: PreTrainedModel, tmp_path: Path) -> None:
    """By a line of config.json that does not depend on the layout."""
    eckart.save(llama, eckart.compress(llama, "svd", 0.6), tmp_path / "small")
    folder = str(tmp_path / "small")
    code = f"from transformers import AutoModelForCausalLM; AutoModelForCausalLM.from_pretrained({folder!r})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode != 0
    assert "this-model-needs-import-eckart" in result.stderr


def test_registering_twice_is_harmless() -> None:
    register()
    register()


def test_a_missing_factor_raises(saved: tuple[Path, PreTrainedModel]) -> None:
    folder, model = saved
    name = tensor_in(model, "model.layers.1.mlp.down_proj.second")
    edit_weights(folder, lambda tensors: tensors.pop(name))
    with pytest.raises(CheckpointError, match=f"lack {re.escape(name)}"):
        AutoModelForCausalLM.from_pretrained(folder)


@pytest.mark.parametrize("ignore", [False, True])
def test_a_misshapen_factor_raises(saved: tuple[Path, PreTrainedModel], ignore: bool) -> None:
    folder, model = saved
    name = tensor_in(model, "model.layers.0.self_attn.o_proj.first")
    edit_weights(folder, lambda tensors: tensors.update({name: tensors[name][:-1].contiguous()}))
    with pytest.raises((RuntimeError, CheckpointError)):
        AutoModelForCausalLM.from_pretrained(folder, ignore_mismatched_sizes=ignore)


@pytest.mark.parametrize("damage", ["twice", "outside", "missing"])
def test_a_damaged_index_raises(tmp_path: Path, damage: str, tokens: torch.Tensor) -> None:
    model = make_model("llama")
    report = eckart.compress(model, "svd-llm", 0.6, tokens, overrides=["structure=pivoted"])
    eckart.save(model, report, tmp_path / "small")
    name = "model.layers.1.mlp.up_proj.index"

    def change(tensors: dict[str, torch.Tensor]) -> None:
        if damage == "missing":
            del tensors[name]
        else:
            tensors[name][3] = tensors[name][4] if damage == "twice" else 30_000

    edit_weights(tmp_path / "small", change)
    with pytest.raises(CheckpointError, match=r"index of model\.layers\.1\.mlp\.up_proj|lack model.*up_proj\.index"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "small")


@pytest.mark.parametrize(
    ("structure", "tensor", "problem"),
    [
        ("kept-columns", "columns", "does not name .* in rising order"),
        ("dictionary", "second.mask", "does not name a place for each of its"),
    ],
)
def test_places_that_cannot_be_raise(
    tmp_path: Path, structure: str, tensor: str, problem: str, tokens: torch.Tensor
) -> None:
    model = make_model("llama")
    report = eckart.compress(model, "svd-llm", 0.6, tokens, overrides=[f"structure={structure}"])
    eckart.save(model, report, tmp_path / "small")
    path = next(layer.path for layer in report.layers if (layer.columns or 0) > 1 or structure == "dictionary")
    edit_weights(tmp_path / "small", lambda tensors: tensors[f"{path}.{tensor}"].fill_(0))
    with pytest.raises(CheckpointError, match=problem):
        AutoModelForCausalLM.from_pretrained(tmp_path / "small")
    edit_weights(tmp_path / "small", lambda tensors: tensors.pop(f"{path}.{tensor}"))
    with pytest.raises(CheckpointError, match=f"lack .*{tensor}"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "small")


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"model.layers.0.self_attn.q_proj": 2}, "'two-factor' keep no columns"),
        ({"model.layers.9": 2}, "'model.layers.9', which has no rank there"),
        ({"model.layers.0.self_attn.q_proj": -1}, "columns.* = -1"),
    ],
)
def test_columns_that_cannot_be_raise(
    columns: dict[str, int], problem: str, tmp_path: Path, llama: PreTrainedModel
) -> None:
    eckart.save(llama, eckart.compress(llama, "svd", 0.6), tmp_path / "small")
    edit_config(tmp_path / "small", columns=columns)
    with pytest.raises(CheckpointError, match=problem):
        AutoModelForCausalLM.from_pretrained(tmp_path / "small")


@pytest.mark.parametrize(
    ("sparsities", "problem"),
    [
        ({"model.layers.0.self_attn.q_proj": 1.5}, "'two-factor' have no sparsity of their own"),
        ({"model.layers.9": 1.5}, "a sparsity for 'model.layers.9', which has no rank there"),
        ({"model.layers.0.self_attn.q_proj": 0.5}, "sparsities.* = 0.5"),
    ],
)
def test_sparsities_that_cannot_be_raise(
    sparsities: dict[str, float], problem: str, tmp_path: Path, llama: PreTrainedModel
) -> None:
    eckart.save(llama, eckart.compress(llama, "svd", 0.6), tmp_path / "small")
    edit_config(tmp_path / "small", sparsities=sparsities)
    with pytest.raises(CheckpointError, match=problem):
        AutoModelForCausalLM.from_pretrained(tmp_path / "small")


def test_more_columns_than_there_are_raise(tmp_path: Path, llama: PreTrainedModel, tokens: torch.Tensor) -> None:
    report = eckart.compress(llama, "cpsvd", 0.6, tokens)
    eckart.save(llama, report, tmp_path / "small")
    config = json.loads((tmp_path / "small" / "config.json").read_text())["quantization_config"]
    path = report.layers[0].path
    for wrong in (report.layers[0].in_features, 10**9):
        edit_config(tmp_path / "small", columns={**config["columns"], path: wrong})
        with pytest.raises(CheckpointError, match=f"{path} the rank"):
            AutoModelForCausalLM.from_pretrained(tmp_path / "small")


def test_a_structure_from_the_future_raises(saved: tuple[Path, PreTrainedModel]) -> None:
    edit_config(saved[0], structure="braided")
    with pytest.raises(CheckpointError, match="'braided'; this version of eckart knows two-factor, pivoted"):
        AutoModelForCausalLM.from_pretrained(saved[0])


@pytest.fixture
def hybrid(tmp_path: Path, llama: PreTrainedModel, tokens: torch.Tensor) -> Path:
    """A base of 4 bits beside factors of 8, on disk."""
    report = eckart.compress(llama, "eora", 0.45, tokens, overrides=["precision=8-bit", "structure.base.group=16"])
    assert None not in report.ranks.values()
    eckart.save(llama, report, tmp_path / "small")
    return tmp_path / "small"


def test_a_structure_is_stored_with_its_fields_and_read_without_them(hybrid: Path, tokens: torch.Tensor) -> None:
    stored = json.loads((hybrid / "config.json").read_text())["quantization_config"]["structure"]
    base = {"name": "4-bit", "group": 16, "feedback": True}
    assert stored == {"name": "hybrid", "base": base, "alternations": 0}
    expected = logits(AutoModelForCausalLM.from_pretrained(hybrid), tokens)
    edit_config(hybrid, structure={"name": "hybrid", "base": {"name": "4-bit", "group": 16}})
    assert_same(logits(AutoModelForCausalLM.from_pretrained(hybrid), tokens), expected)


def test_a_structure_by_its_name_alone_is_read(tmp_path: Path, llama: PreTrainedModel, tokens: torch.Tensor) -> None:
    report = eckart.compress(llama, "svd-llm", 0.6, tokens, overrides=["structure=pivoted"])
    eckart.save(llama, report, tmp_path / "small")
    edit_config(tmp_path / "small", structure="pivoted")
    assert_same(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "small"), tokens), logits(llama, tokens))


@pytest.mark.parametrize(
    ("structure", "message"),
    [
        ({"name": "hybrid", "base": {"name": "7-bit"}}, r"a structure that cannot be: .*'7-bit'"),
        ({"name": "hybrid", "base": {"name": "4-bit", "group": 0}}, "a structure that cannot be"),
        ({"name": "hybrid", "pivots": 3}, "a structure that cannot be"),
        ({"base": "4-bit"}, "names the structure None"),
        (["hybrid"], "this version of eckart knows"),
        ("remapped", "says itself in how many bits"),
    ],
)
def test_a_structure_that_cannot_be_raises(hybrid: Path, structure: object, message: str) -> None:
    edit_config(hybrid, structure=structure)
    with pytest.raises(CheckpointError, match=message):
        AutoModelForCausalLM.from_pretrained(hybrid)


@pytest.mark.parametrize("base", [{"name": "4-bit", "group": 8}, {"name": "8-bit", "group": 16}])
def test_another_base_than_the_stored_one_raises(hybrid: Path, base: dict[str, object]) -> None:
    edit_config(hybrid, structure={"name": "hybrid", "base": base})
    with pytest.raises((RuntimeError, CheckpointError)):
        AutoModelForCausalLM.from_pretrained(hybrid)


@pytest.mark.parametrize("part", ["base.codes", "base.scale", "first.codes", "second.scale"])
def test_missing_numbers_of_a_hybrid_raise(hybrid: Path, part: str) -> None:
    edit_weights(hybrid, lambda tensors: tensors.pop(f"model.layers.1.mlp.up_proj.{part}"))
    with pytest.raises(CheckpointError, match=rf"lack model\.layers\.1\.mlp\.up_proj\.{part}"):
        AutoModelForCausalLM.from_pretrained(hybrid)


@pytest.mark.parametrize("rank", [0, 33, "9", 1.5, True, [4]])
def test_a_rank_that_cannot_be_raises(saved: tuple[Path, PreTrainedModel], rank: object) -> None:
    folder, model = saved
    ranks = dict(model.config.quantization_config.ranks)
    edit_config(folder, ranks={**ranks, "model.layers.0.self_attn.o_proj": rank})
    expected = r"whole number from 1 to \d\d, since" if type(rank) is int else r"o_proj = .* valid integer"
    with pytest.raises(CheckpointError, match=expected):
        AutoModelForCausalLM.from_pretrained(folder)


def test_a_rank_for_no_layer_raises(saved: tuple[Path, PreTrainedModel]) -> None:
    folder, model = saved
    edit_config(folder, ranks={**model.config.quantization_config.ranks, "model.layers.9.mlp.up_proj": 4})
    with pytest.raises(CheckpointError, match=r"names the linear layer 'model\.layers\.9.*has none of that name"):
        AutoModelForCausalLM.from_pretrained(folder)


def test_a_format_from_the_future_raises(saved: tuple[Path, PreTrainedModel]) -> None:
    edit_config(saved[0], format_version=2)
    with pytest.raises(CheckpointError, match="format 2"):
        AutoModelForCausalLM.from_pretrained(saved[0])


def test_the_config_cannot_be_put_on_a_dense_model(saved: tuple[Path, PreTrainedModel], model_folder: Path) -> None:
    config = saved[1].config.quantization_config
    with pytest.raises(ValueError, match="require the model to be pre-quantized"):
        AutoModelForCausalLM.from_pretrained(model_folder, quantization_config=config)


PLACES = [(name, bits) for name, kind in STRUCTURES.items() for bits in ("16-bit", "8-bit") if not kind.own_precision]


@pytest.mark.parametrize(
    ("layout", "kind"),
    [
        (layout, kind)
        for number, layout in enumerate([*PLACES, ("remapped", "16-bit")])
        for kind in (("llama", "gemma3"), ("qwen2", "opt"))[number % 2]
    ],
)
def test_joint_linears_survive_the_disk_and_are_taken_apart(
    layout: tuple[str, str], kind: str, tmp_path: Path, tokens: torch.Tensor
) -> None:
    structure, precision = layout
    model = make_model(kind)
    names = set(model.state_dict())
    overrides = ["sharing=shared", f"structure={structure}", f"precision={precision}"]
    report = eckart.compress(model, "svd-llm", 0.6, tokens, overrides=overrides)
    eckart.save(model, report, tmp_path / "small")
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path / "small", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert_same(logits(loaded, tokens), logits(model, tokens))
    dense = loaded.dequantize()
    assert set(dense.state_dict()) == names
    assert_same(logits(dense, tokens), logits(model, tokens))


def test_joint_linears_that_the_model_has_not(saved: tuple[Path, PreTrainedModel]) -> None:
    folder, _ = saved
    edit_config(folder, joint=[["model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.nothing"]])
    with pytest.raises(CheckpointError, match="nothing"):
        AutoModelForCausalLM.from_pretrained(folder)
