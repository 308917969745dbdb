"""Every layout and many models in vLLM: its most likely tokens are those of transformers, in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.serve.engine import Engine
from tests.serve.models import LAYOUTS, PROMPTS, SIZES, compressed, greedy, greedy_of, make
from transformers import AutoModelForCausalLM

pytestmark = [pytest.mark.filterwarnings("ignore")]
MODELS = ["llama-tied-biases", "qwen2", "qwen3", "phi3", "gpt2", "gpt_neox"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str, engine: Engine, tmp_path: Path) -> None:
    folder = compressed(tmp_path / "model", *LAYOUTS[layout], keep=SIZES.get(layout, 0.75))
    assert engine.ask(folder, PROMPTS) == greedy(folder)


@pytest.mark.parametrize("layout", ["two-factor", "pivoted", "two-factor-8", "hybrid"])
def test_compiled(layout: str, engine: Engine, tmp_path: Path) -> None:
    folder = compressed(tmp_path / "model", *LAYOUTS[layout], keep=SIZES.get(layout, 0.75))
    assert engine.ask(folder, PROMPTS, enforce_eager=False) == greedy(folder)


@pytest.mark.parametrize("recipe", ["int4", "gptq"])
def test_4_bits_alone_are_run_by_the_engine_itself(recipe: str, engine: Engine, tmp_path: Path) -> None:
    """It has a product of them for 16 bits only, which may round to another token after a while."""
    folder = compressed(tmp_path / "model", recipe=recipe, keep=0.55)
    assert engine.ask(folder, PROMPTS, 8, dtype="float16") == greedy(folder, 8)


def test_8_bits_alone_ask_for_an_accelerator(engine: Engine, tmp_path: Path) -> None:
    """The engine has no product of them on a CPU, and says so."""
    answer = engine.ask(compressed(tmp_path / "model", recipe="int8", keep=0.55), PROMPTS, 1)
    assert isinstance(answer, str)
    assert "Failed to find a kernel" in answer


@pytest.mark.parametrize("layout", ["two-factor", "hybrid"])
@pytest.mark.parametrize("kind", MODELS)
def test_models(kind: str, layout: str, engine: Engine, tmp_path: Path) -> None:
    folder = compressed(tmp_path / "model", *LAYOUTS[layout], kind=kind, keep=0.75)
    assert engine.ask(folder, PROMPTS) == greedy(folder)


def test_a_model_that_the_engine_runs_by_transformers(engine: Engine, tmp_path: Path) -> None:
    """It has no class of its own for it, so that outputs stay in their order."""
    folder = compressed(tmp_path / "model", "structure=pivoted", kind="gpt_neox", keep=0.75)
    assert engine.ask(folder, PROMPTS) == greedy(folder)


@pytest.mark.parametrize("layout", ["two-factor", "pivoted", "two-factor-8"])
def test_the_draft_of_its_dense_model(layout: str, engine: Engine, tmp_path: Path) -> None:
    folder = compressed(tmp_path / "draft", *LAYOUTS[layout], keep=SIZES.get(layout, 0.75))
    make().save_pretrained(tmp_path / "dense")
    proposals = {"method": "draft_model", "model": str(folder), "num_speculative_tokens": 3}
    assert engine.ask(tmp_path / "dense", PROMPTS, speculative_config=proposals) == greedy(tmp_path / "dense")


@pytest.mark.parametrize("layout", ["two-factor", "pivoted", "two-factor-8"])
def test_an_adapter_on_top(layout: str, engine: Engine, tmp_path: Path) -> None:
    """LoRA by the names of the dense model's layers."""
    peft = pytest.importorskip("peft", reason="peft is not installed")
    folder = compressed(tmp_path / "model", *LAYOUTS[layout], keep=SIZES.get(layout, 0.55))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).dequantize()
    torch.manual_seed(0)
    targets = ["q_proj", "v_proj", "gate_proj", "down_proj"]
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(r=8, lora_alpha=32, target_modules=targets, init_lora_weights=False)
    )
    adapted.save_pretrained(tmp_path / "adapter")
    expected = greedy_of(adapted.eval())
    assert expected != greedy(folder)
    options: dict[str, Any] = {"enable_lora": True, "max_lora_rank": 8, "adapter": str(tmp_path / "adapter")}
    assert engine.ask(folder, PROMPTS, **options) == expected
