"""Mixtures of experts, compressed in memory and from disk, saved, loaded, resumed and merged."""

from __future__ import annotations

import copy
import gc
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import transformers as t
from safetensors.torch import load_file
from tests.conftest import Stop, byte_tokenizer
from tests.listed import ListedConfig, ListedForCausalLM

import eckart
from eckart.blocks.expert_stacks import expand
from eckart.blocks.onload import ResidentWeights
from eckart.checkpoint.config import EckartConfig
from eckart.checkpoint.source import open_model
from eckart.compression.callback import Callback
from eckart.compression.records import LayerRecord
from eckart.errors import CheckpointError
from eckart.layers import LowRankLinear
from eckart.layers.linear_stack import linear_stacks
from eckart.run.compress_checkpoint import compress_checkpoint

OPTIONS: dict[str, Any] = {"samples": 4, "length": 24}
MODEL: dict[str, Any] = {
    "vocab_size": 256,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
BUILD = {
    "stored apart": lambda: t.MixtralConfig(**MODEL, num_local_experts=4),
    "transposed, with biases": lambda: t.GptOssConfig(**MODEL, head_dim=8, num_local_experts=4, num_experts_per_tok=2),
    "in one matrix": lambda: t.DbrxConfig(
        d_model=32,
        n_heads=4,
        n_layers=2,
        max_seq_len=64,
        vocab_size=256,
        attn_config={"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0},
        ffn_config={"ffn_hidden_size": 48},
    ),
}
pytestmark = pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning")


@pytest.fixture
def text(tmp_path: Path) -> str:
    (tmp_path / "text.txt").write_text("The quick brown fox jumps over the lazy dog, again and again. " * 40)
    return str(tmp_path / "text.txt")


def dense(folder: Path, kind: str) -> Path:
    torch.manual_seed(0)
    t.AutoModelForCausalLM.from_config(BUILD[kind]()).eval().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def stored(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def logits(model: t.PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=torch.arange(40).view(2, 20)).logits
    return found


@pytest.mark.parametrize(
    ("kind", "recipe", "overrides"),
    [
        ("stored apart", "svd-llm", []),
        ("stored apart", "saes-svd", ["structure=pivoted", "precision=8-bit"]),
        ("stored apart", "svd-llm", ["structure=hybrid", "precision=4-bit"]),
        ("transposed, with biases", "svd-llm", ["precision=4-bit"]),
        ("in one matrix", "svd-llm", ["structure=pivoted", "sharing=shared"]),
        ("in one matrix", "svd-llm", ["sharing=experts"]),
        ("transposed, with biases", "saes-svd", ["structure=pivoted", "sharing=experts"]),
        ("stored apart", "svd-llm", ["structure=hybrid", "precision=4-bit", "sharing=experts"]),
        ("in one matrix", "svd-llm", ["structure=kept-columns", "sharing=experts"]),
        ("stored apart", "saes-svd", ["structure=dictionary", "sharing=experts"]),
        ("stored apart", "zs-svd", ["precision=8-bit", "sharing=experts", "objective.affine=true"]),
    ],
)
def test_the_same_in_memory_and_from_disk_and_back(
    kind: str, recipe: str, overrides: list[str], text: str, tmp_path: Path
) -> None:
    source = dense(tmp_path / "dense", kind)
    model = t.AutoModelForCausalLM.from_pretrained(source)
    report = eckart.compress(model, recipe, 0.6, text, overrides=overrides, **OPTIONS)
    eckart.save(model, report, tmp_path / "memory")
    compress_checkpoint(source, tmp_path / "disk", recipe, 0.6, text, overrides=overrides, **OPTIONS)
    assert same(stored(tmp_path / "memory"), stored(tmp_path / "disk"))
    loaded = t.AutoModelForCausalLM.from_pretrained(tmp_path / "disk")
    assert torch.equal(logits(loaded), logits(model))
    loaded.save_pretrained(tmp_path / "again")
    assert same(stored(tmp_path / "again"), stored(tmp_path / "disk"))
    found = logits(loaded)
    loaded.dequantize()
    assert not linear_stacks(loaded)
    loaded.save_pretrained(tmp_path / "merged")
    assert stored(tmp_path / "merged").keys() == stored(source).keys()
    torch.testing.assert_close(logits(t.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")), found)


@pytest.mark.parametrize(
    ("recipe", "overrides", "linears"),
    [
        ("saes-svd", ["structure=pivoted"], 4 + 4 * 3),
        ("svd-llm", ["precision=8-bit"], 4 + 4 * 3),
        ("saes-svd", ["sharing=experts"], 4 + 4 + 1),
    ],
)
def test_experts_in_a_list(recipe: str, overrides: list[str], linears: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = ListedForCausalLM(ListedConfig(**MODEL, experts=4)).eval()
    dense = {name: tensor.shape for name, tensor in model.state_dict().items()}
    tokens = torch.randint(1, 250, (6, 24), generator=torch.Generator().manual_seed(0))
    keep = 0.4 if "precision=8-bit" in overrides else 0.6  # what is only rounded is in another format
    report = eckart.compress(model, recipe, keep, tokens, overrides=overrides)
    assert len(report.layers) == 2 * linears
    eckart.save(model, report, tmp_path / "out")
    loaded = ListedForCausalLM.from_pretrained(tmp_path / "out")
    found = logits(loaded)
    assert torch.equal(found, logits(model))
    loaded.dequantize()
    assert {name: tensor.shape for name, tensor in loaded.state_dict().items()} == dense
    torch.testing.assert_close(logits(loaded), found)


@pytest.mark.parametrize("sharing", ["separate", "experts", "by-loss"])
def test_a_run_goes_on(sharing: str, text: str, tmp_path: Path) -> None:
    source, options = dense(tmp_path / "dense", "stored apart"), {**OPTIONS, "overrides": [f"sharing={sharing}"]}
    compress_checkpoint(source, tmp_path / "whole", "saes-svd", 0.6, text, **options)
    stop = Stop(1, RuntimeError("stop"))
    with pytest.raises(RuntimeError, match="stop"):
        compress_checkpoint(source, tmp_path / "out", "saes-svd", 0.6, text, callback=stop, **options)
    compress_checkpoint(source, tmp_path / "out", "saes-svd", 0.6, text, resume=True, **options)
    assert same(stored(tmp_path / "out"), stored(tmp_path / "whole"))


def test_from_disk_one_expert_is_read_at_a_time_and_one_block_is_held(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = t.MixtralConfig(**MODEL, num_local_experts=64)
    model = t.MixtralForCausalLM(config).eval()
    model.save_pretrained(tmp_path / "dense")
    found, weights = open_model(tmp_path / "dense", tmp_path / "offload")
    expand(found, weights)
    assert all(parameter.is_meta for parameter in found.parameters())
    expand(model, ResidentWeights())
    with weights.onload(found.model.layers[0], torch.device("cpu")):
        assert same(found.model.layers[0].state_dict(), model.model.layers[0].state_dict())
        assert all(parameter.is_meta for parameter in found.model.layers[1].parameters())
    assert all(parameter.is_meta for parameter in found.parameters())


class HeldBytes(Callback):
    """Counts the bytes of all weights that are in memory when a layer is done."""

    def __init__(self, every: int) -> None:
        self.every, self.layers, self.most = every, 0, 0

    def on_layer(self, layer: LayerRecord) -> None:
        self.layers += 1
        if self.layers % self.every == 0:
            gc.collect()
            held = [o for o in gc.get_objects() if type(o) is torch.nn.Parameter and not o.is_meta]
            self.most = max(self.most, sum({p.data_ptr(): p.nbytes for p in held}.values()))


def test_a_mixture_of_64_experts_is_compressed_with_one_block_in_memory(text: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = t.MixtralForCausalLM(t.MixtralConfig(**{**MODEL, "num_hidden_layers": 2}, num_local_experts=64)).eval()
    block = sum(parameter.nbytes for parameter in model.model.layers[0].parameters())
    beside = sum(parameter.nbytes for parameter in model.parameters()) - 2 * block
    model.save_pretrained(tmp_path / "dense")
    byte_tokenizer().save_pretrained(tmp_path / "dense")
    del model
    gc.collect()
    held, known = HeldBytes(every=4 + 2 * 64), HeldBytes(every=1)
    known.on_layer(cast(LayerRecord, None))  # what earlier tests left
    compress_checkpoint(tmp_path / "dense", tmp_path / "out", "saes-svd", 0.6, text, callback=held, **OPTIONS)
    assert held.layers == 2 * (4 + 2 * 64)
    # What is compressed, what it becomes, and what is in no block.
    assert block < held.most - known.most < 1.6 * block + beside


@pytest.mark.parametrize("recipe", ["svd-llm", "saes-svd"])
def test_an_expert_that_no_token_reaches_is_fitted_to_what_its_siblings_are_handed(recipe: str) -> None:
    torch.manual_seed(0)
    tokens = torch.randint(1, 250, (4, 24), generator=torch.Generator().manual_seed(0))
    model = t.MixtralForCausalLM(t.MixtralConfig(**MODEL, num_local_experts=12, num_experts_per_tok=1)).eval()
    with torch.no_grad():
        for layer in model.model.layers:  # to the first three whatever the token is
            layer.mlp.gate.weight.mul_(0.1)[3:] = 0
            layer.mlp.gate.weight[:3, 0] += torch.tensor([4.0, -4.0, 0.0])
            layer.mlp.gate.weight[:3, 1] += torch.tensor([0.0, 0.0, 4.0])
    dense = copy.deepcopy(model)
    report = eckart.compress(model, recipe, 0.5, tokens)
    assert len(report.layers) == 2 * (4 + 2 * 12)
    assert logits(model).isfinite().all()
    seen: list[torch.Tensor] = []
    dense.model.layers[0].mlp.register_forward_pre_hook(lambda _, args: seen.append(args[0].flatten(0, 1)))
    chosen: list[int] = []
    dense.model.layers[0].mlp.experts.register_forward_pre_hook(
        lambda _, args: chosen.extend(args[1].unique().tolist())
    )
    with torch.no_grad():
        dense(tokens)
    starved = next(number for number in range(12) if number not in chosen)
    path = f"model.layers.0.mlp.experts.gate_up_proj.{starved}"
    weight = dense.model.layers[0].mlp.experts.gate_up_proj[starved].detach()
    layer = model.get_submodule(path)
    assert isinstance(layer, LowRankLinear)
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    rank = report.ranks[path]
    assert rank is not None
    alone = (left[:, :rank] * values[:rank]) @ right[:rank]
    errors = [((weight - product) @ seen[0].T).norm() for product in (layer.dense_weight().float(), alone)]
    assert errors[0] < 0.99 * errors[1]


def test_fails_without_a_trace(text: str) -> None:
    model = t.MixtralForCausalLM(t.MixtralConfig(**MODEL, num_local_experts=4)).eval()
    names = list(model.state_dict())
    with pytest.raises(eckart.EckartError):
        eckart.compress(model, "svd-llm", 1e-5, text)
    assert list(model.state_dict()) == names


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"number": 3, "transposed": False}, "holds no 3 matrices"),
        ({"number": "4", "transposed": False}, "expanded"),
        ({"number": 4}, "expanded"),
        ({"number": 4, "transposed": False, "more": 1}, "expanded"),
    ],
)
def test_a_config_that_says_something_else_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    model = t.MixtralForCausalLM(t.MixtralConfig(**MODEL, num_local_experts=4)).eval()
    report = eckart.compress(model, "svd", 0.6)
    eckart.save(model, report, tmp_path / "out")
    config = t.AutoConfig.from_pretrained(tmp_path / "out")
    described = config.quantization_config
    fields = described if isinstance(described, dict) else described.to_dict()
    fields["expanded"] = dict.fromkeys(fields["expanded"], change)

    def load() -> None:
        config.quantization_config = EckartConfig.from_dict(fields)
        t.AutoModelForCausalLM.from_pretrained(tmp_path / "out", config=config)

    with pytest.raises(CheckpointError, match=message):
        load()
