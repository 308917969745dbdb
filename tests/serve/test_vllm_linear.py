"""Every layout and many models in vLLM: its most likely tokens are those of transformers, in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.serve.engine import Engine
from tests.serve.models import PROMPTS, compressed, greedy, greedy_of
from transformers import AutoModelForCausalLM

pytestmark = [pytest.mark.filterwarnings("ignore")]
LAYOUTS = {
    "two-factor": [],
    "two-factor-8": ["precision=8-bit"],
    "two-factor-4": ["precision=4-bit"],
    "pivoted": ["structure=pivoted"],
    "pivoted-4": ["structure=pivoted", "precision=4-bit"],
    "shared": ["sharing=shared"],
    "shared-pivoted": ["sharing=shared", "structure=pivoted"],
    "hybrid": ["structure=hybrid"],
    "hybrid-8": ["structure=hybrid", "structure.base=8-bit", "precision=8-bit"],
    "hybrid-sparse": ["structure=hybrid", "structure.base=2-of-4"],
    "remapped": ["structure=remapped"],
}
WHOLE = ("int8", "int4")
MODELS = ["llama-tied-biases", "qwen2", "qwen3", "phi3", "gpt2", "gpt_neox"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str, engine: Engine, tmp_path: Path) -> None:
    folder = compressed(tmp_path / "model", *LAYOUTS[layout], keep=0.75)
    assert engine.ask(folder, PROMPTS) == greedy(folder)


@pytest.mark.parametrize("recipe", WHOLE)
def test_whole_weights_of_few_bits(recipe: str, engine: Engine, tmp_path: Path) -> None:
    folder = compressed(tmp_path / "model", recipe=recipe, keep=0.55)
    assert engine.ask(folder, PROMPTS) == greedy(folder)


@pytest.mark.parametrize("layout", ["two-factor", "hybrid"])
@pytest.mark.parametrize("kind", MODELS)
def test_models(kind: str, layout: str, engine: Engine, tmp_path: Path) -> None:
    folder = compressed(tmp_path / "model", *LAYOUTS[layout], kind=kind, keep=0.75)
    assert engine.ask(folder, PROMPTS) == greedy(folder)


def test_outputs_that_the_model_would_put_in_another_order(engine: Engine, tmp_path: Path) -> None:
    folder = compressed(tmp_path / "model", "structure=pivoted", kind="gpt_neox", keep=0.75)
    answer = engine.ask(folder, PROMPTS, 2)
    assert isinstance(answer, str)
    assert "ServingError: vLLM's class of this model puts the outputs of queries, keys and values" in answer


@pytest.mark.parametrize("layout", ["two-factor", "int8"])
def test_an_adapter_on_top(layout: str, engine: Engine, tmp_path: Path) -> None:
    """LoRA on what was factored or rounded, by the names of the dense model's layers."""
    peft = pytest.importorskip("peft", reason="peft is not installed")
    recipe = layout if layout in WHOLE else "svd"
    folder = compressed(tmp_path / "model", recipe=recipe, keep=0.55)
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
