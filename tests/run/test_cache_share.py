"""A size for the key-value cache beside that of the weights."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.conftest import make_model
from transformers import AutoModelForCausalLM, ViTConfig, ViTModel

from eckart.blocks.onload import ResidentWeights
from eckart.cache import latent_cache
from eckart.errors import EckartError
from eckart.methods.recipes.loader import load_recipe
from eckart.run.cache_share import CachedLinear, cached_linears, check_cache_share, with_cache_share
from eckart.run.compress_checkpoint import compress_checkpoint

VIT = ViTConfig(
    image_size=32, patch_size=16, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
)
LLAMA = [
    CachedLinear(f"model.layers.{block}.self_attn.{side}_proj", (16, 32), 16) for block in range(3) for side in "kv"
]


@pytest.mark.parametrize(
    ("kind", "names", "width"),
    [
        ("llama", ["k_proj", "v_proj"], 16),
        ("gemma3", ["k_proj", "v_proj"], 8),
        ("opt", ["k_proj", "v_proj"], 32),
        ("phi3", ["qkv_proj"], 32),
        ("gpt2", ["c_attn"], 64),
        ("gpt-neox", ["query_key_value"], 64),
    ],
)
def test_layers_are_found_by_what_the_cache_is_handed(kind: str, names: list[str], width: int) -> None:
    model = make_model(kind)
    found = cached_linears(model, ResidentWeights())
    assert len(found) == len(names) * model.config.num_hidden_layers
    assert {linear.path.rpartition(".")[2] for linear in found} == set(names)
    assert {linear.width for linear in found} == {width}
    for linear in found:
        assert linear.path in dict(model.named_modules())
    assert not any(module._forward_hooks for module in model.modules())


def test_their_ranks_sum_to_the_share() -> None:
    recipe = load_recipe("svd-llm", [], 0.6)
    override = with_cache_share(recipe, 0.5, LLAMA)
    pattern = "model.layers.*.self_attn.k_proj|model.layers.*.self_attn.v_proj"
    assert override == f"targets.'{pattern}'.keep={8 * (16 + 32) / (16 * 32):g}"
    (target,) = load_recipe("svd-llm", [override], 0.6).targets
    assert (target.pattern, target.keep) == (pattern, 0.75)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(EckartError, match=r"shrinks widths between linears.*such as eckart-fast"):
        with_cache_share(load_recipe("modegpt", [], 0.6), 0.5, LLAMA)
    with pytest.raises(EckartError, match=r"keep more latents than their rank.*such as eckart-fast"):
        with_cache_share(load_recipe("cpsvd", [], 0.6), 0.5, LLAMA)
    with pytest.raises(EckartError, match=r"puts weights of few bits beside its factors.*such as eckart-fast"):
        with_cache_share(load_recipe("auto", [], 0.6), 0.5, LLAMA)
    with pytest.raises(EckartError, match=r"take more bytes than the layers.*Use a share below 0\.62"):
        with_cache_share(load_recipe("svd-llm", [], 0.6), 0.8, LLAMA)
    with pytest.raises(EckartError, match=r"less than one of the 16 numbers .* Use 0\.0625 or more"):
        with_cache_share(load_recipe("svd-llm", [], 0.6), 0.01, LLAMA)
    for said in ("targets.*.self_attn.*=leave", "targets.*.k_proj=leave", "targets.*.v_proj.keep=0.9"):
        with pytest.raises(EckartError, match=r"say what becomes of model\.layers"):
            with_cache_share(load_recipe("svd-llm", [said], 0.6), 0.5, LLAMA)
    found = cached_linears(make_model("llama"), ResidentWeights())
    with pytest.raises(EckartError, match=r"say what becomes of model\.layers"):
        with_cache_share(load_recipe("svd-llm", ["targets.LlamaAttention=leave"], 0.6), 0.5, found)
    for share in (0, 1, 1.5, "half"):
        with pytest.raises(EckartError, match="above 0 and below 1; found"):
            check_cache_share(share)  # type: ignore[arg-type]
    check_cache_share(None)
    with pytest.raises(EckartError, match="No linear layer of ViTModel gives keys or values"):
        cached_linears(ViTModel(VIT).eval(), ResidentWeights())


def test_a_folder_with_both_sizes(model_folder: Path, text_file: Path, tmp_path: Path) -> None:
    report = compress_checkpoint(
        model_folder,
        tmp_path / "out",
        "svd-llm",
        0.8,
        str(text_file),
        cache_keep=0.25,
        samples=4,
        length=24,
    )
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.config.quantization_config.latent_cache == 16
    size = latent_cache(model).size
    assert sum(layer.stored for layer in size.layers) == pytest.approx(0.25 * size.dense, rel=0.01)
    others = [layer for layer in report.layers if not layer.path.endswith(("k_proj", "v_proj"))]
    assert 0.7 < sum(layer.bytes for layer in others) / sum(layer.dense_bytes for layer in others) <= 0.8
