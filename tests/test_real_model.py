"""Real weights, real text: what random models cannot show, that the methods do what they are for."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
import torch
from tests.conftest import needs_smollm2, shorter, smollm2
from transformers import AutoModelForCausalLM, PreTrainedModel

import eckart
from eckart.checkpoint import load_model, load_tokenizer
from eckart.data.draw import tokenize
from eckart.data.text import read_text

DATA = Path(os.environ.get("ECKART_DATA", Path(__file__).parents[2] / "shared" / "data"))
STORIES = DATA / "models" / "stories260k"
needs_stories = pytest.mark.skipif(
    not STORIES.is_dir(), reason="needs the stories260k model (set ECKART_DATA to the folder that holds models/)"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M-Instruct as a dense folder in bfloat16, converted from its GGUF file."""
    source = smollm2()
    assert source is not None
    out = tmp_path_factory.mktemp("smollm2")
    load_model(source).save_pretrained(out)
    tokenizer = load_tokenizer(source)
    assert tokenizer is not None
    tokenizer.save_pretrained(out)
    return out


def held_out_loss(model: PreTrainedModel, folder: Path) -> float:
    tokenizer = load_tokenizer(folder)
    assert tokenizer is not None
    ids = tokenize(read_text("python-docs:held-out"), tokenizer)
    return eckart.perplexity(model, ids, length=256, windows=3).log_perplexity


@needs_smollm2
@pytest.mark.real_model
@pytest.mark.filterwarnings("default")
def test_a_gguf_file_becomes_a_plain_model(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert not hasattr(model.config, "quantization_config")
    assert {p.dtype for p in load_model(folder).parameters()} == {torch.bfloat16}
    tokenizer = load_tokenizer(folder)
    assert tokenizer is not None
    # Digits are split one by one, as the model was trained.
    assert [tokenizer.decode(i) for i in tokenizer("in 2024")["input_ids"]] == ["in", " ", "2", "0", "2", "4"]
    text = tokenizer("The capital of France is", return_tensors="pt")
    tokens = model.generate(**text, do_sample=False, max_new_tokens=4, pad_token_id=0)
    assert "Paris" in tokenizer.decode(tokens[0])
    assert held_out_loss(model, folder) < math.log(30)


@needs_smollm2
@pytest.mark.real_model
@pytest.mark.filterwarnings("default")
def test_looking_at_the_inputs_is_worth_a_lot_and_survives_the_disk(folder: Path, tmp_path: Path) -> None:
    losses = {}
    for recipe in ("svd", "svd-llm"):
        model = load_model(folder)
        report = eckart.compress(model, recipe, 0.8, samples=4, length=256, only="model.layers.[0-2].*")
        assert 0.795 < report.keep <= 0.8
        # 0.8 * 192 * 576 / (192 + 576) is 115.2; what rounding leaves of the budget brings some of them one further.
        assert {layer.rank for layer in report.layers if layer.path.endswith("k_proj")} <= {115, 116}
        losses[recipe] = held_out_loss(model.to(torch.float32), folder)
    eckart.save(model, report, tmp_path / "small")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "small", dtype=torch.float32)
    tokens = torch.arange(100, 164)[None]
    with torch.no_grad():
        ours, theirs = model(tokens).logits, loaded(tokens).logits
    assert (ours - theirs).abs().max() <= 1e-5 * ours.abs().max()
    assert losses["svd-llm"] < math.log(200)
    assert losses["svd"] > losses["svd-llm"] + 3


@needs_smollm2
@pytest.mark.real_model
@pytest.mark.filterwarnings("default")
def test_refinement_brings_the_first_blocks_nearer_to_the_original_on_other_text(folder: Path, tmp_path: Path) -> None:
    original = load_model(folder)
    original.model.layers = original.model.layers[:2]
    original.config.num_hidden_layers = 2
    original.config.layer_types = None
    original.save_pretrained(tmp_path / "two-blocks")
    tokenizer = load_tokenizer(folder)
    assert tokenizer is not None
    tokenizer.save_pretrained(tmp_path / "two-blocks")
    other = tokenize(read_text("python-docs:held-out"), tokenizer)[:2048].reshape(8, 256)
    errors = {}
    trained = ["epochs=3", "batch=1", "held_out=0.125", "shuffle=true"]
    for name, overrides in (("refined", [f"refinement.{field}" for field in trained]), ("plain", ["refinement=none"])):
        report = eckart.compress_checkpoint(
            tmp_path / "two-blocks", tmp_path / name, "aa-svd", 0.6, samples=16, length=256, overrides=overrides
        )
        for record in report.refinements:
            assert record.before is not None
            assert record.after is not None
            assert record.after < record.before
        loaded = load_model(tmp_path / name, dtype=torch.float32)
        with torch.no_grad():
            ours = loaded.model(other).last_hidden_state
            theirs = load_model(tmp_path / "two-blocks", dtype=torch.float32).model(other).last_hidden_state
        errors[name] = float((ours - theirs).norm() / theirs.norm())
    assert errors["refined"] < 0.97 * errors["plain"]


@needs_stories
@pytest.mark.real_model
@pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning")
def test_every_recipe_on_a_small_real_model(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(STORIES)
    assert tokenizer is not None
    ids = tokenize(read_text(f"{DATA}/text/tinystories.head.txt:raw"), tokenizer)
    calibration, held_out = ids[:4096].reshape(-1, 256), ids[8192:]
    dense = eckart.perplexity(load_model(STORIES), held_out, length=256, windows=10).log_perplexity
    # As published, these look at the data for a long time.
    short = {
        "asvd": ["allocation.trial_samples=2"],
        "dobi-svd": ["allocation.epochs=1", "allocation.training_samples=8"],
        "zs-svd-staged": ["allocation.stages=2"],
        "svd-llm-lora": ["distillation.epochs=1"],
        "prehab": ["preparation.epochs=2"],
        **{name: ["refinement.epochs=2", "distillation.epochs=1"] for name in ("eckart", "auto-trained")},
    }
    excess = {}
    for recipe, chosen in eckart.RECIPES.items():
        model = load_model(STORIES)
        overrides = short.get(recipe, ["refinement.epochs=2"] if chosen.refinement.needs_data else shorter(recipe))
        report = eckart.compress(model, recipe, 0.8, calibration, overrides=overrides)
        eckart.save(model, report, tmp_path / recipe)
        loaded = load_model(tmp_path / recipe)
        excess[recipe] = eckart.perplexity(loaded, held_out, length=256, windows=10).log_perplexity - dense
    assert max(excess, key=excess.__getitem__) == "svd"
    # Where the inputs are not looked at, two epochs do not make up for it.
    blind = {name for name in excess if eckart.RECIPES[name].objective.name == "weight" and excess[name] > 1}
    assert blind == {"svd", "calr"}
    assert all(value < excess["svd"] - 1 for name, value in excess.items() if name not in blind), excess
    # Rounding to 8 bits alone may as well help as hurt.
    in_8_bits = {"int8", "zs-svd-hq", "eckart-q", "auto", "auto-speed", "auto-trained"}
    assert all(value > 0 for name, value in excess.items() if name not in in_8_bits), excess
    assert max(abs(excess[name]) for name in ("int8", "auto", "auto-speed", "auto-trained")) < 0.05
    assert excess["eckart"] < excess["eckart-fast"] < 0.5 * excess["io-svd"]
