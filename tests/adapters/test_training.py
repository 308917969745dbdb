"""Trainers of transformers and of TRL on compressed models with adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.adapters.helpers import compressed
from tests.conftest import byte_tokenizer
from transformers import Trainer, TrainingArguments

peft = pytest.importorskip("peft")

# What libraries say of one another.
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory:UserWarning"),
]
ROWS = [{"input_ids": list(range(n, n + 12)), "labels": list(range(n, n + 12))} for n in range(4)]
ARGUMENTS: dict[str, Any] = {
    "max_steps": 2,
    "per_device_train_batch_size": 2,
    "learning_rate": 0.1,
    "report_to": "none",
    "use_cpu": True,
    "save_strategy": "no",
    "dataloader_pin_memory": False,
    "disable_tqdm": True,
}


def learned(model: Any) -> int:
    """Return how many layers have an adapter that does something."""
    layers = [module for module in model.modules() if isinstance(module, peft.tuners.lora.LoraLayer)]
    return sum(bool(layer.lora_B["default"].weight.any()) for layer in layers)


@pytest.mark.filterwarnings("error::eckart.errors.EckartWarning")  # of what is not trained there is nothing to say
def test_trainer(tmp_path: Path) -> None:
    model = compressed("4 bits", dtype=torch.float32)
    codes = {name: tensor.clone() for name, tensor in model.state_dict().items() if "lora" not in name}
    ours = peft.get_peft_model(model, peft.LoraConfig(target_modules="all-linear", r=2))
    Trainer(ours, TrainingArguments(str(tmp_path), **ARGUMENTS), train_dataset=ROWS).train()
    assert learned(ours) == 14
    after = ours.unload().state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in codes.items())


@pytest.mark.parametrize("layout", ["shared", "4 bits"])
def test_sft_trainer(layout: str, tmp_path: Path) -> None:
    trl = pytest.importorskip("trl")
    from datasets import Dataset

    model = compressed(layout, dtype=torch.float32)
    tokenizer = byte_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token = tokenizer.convert_ids_to_tokens(0)
    trainer = trl.SFTTrainer(
        model,
        trl.SFTConfig(str(tmp_path), **ARGUMENTS, max_length=16),
        train_dataset=Dataset.from_list([{"text": "Subject, verb, object."}] * 4),
        processing_class=tokenizer,
        peft_config=peft.LoraConfig(target_modules=["q_proj", "v_proj"], r=2),
    )
    trainer.train()
    assert learned(trainer.model) == 4
    trainer.save_model(str(tmp_path / "adapter"))
    again = peft.PeftModel.from_pretrained(compressed(layout, dtype=torch.float32), str(tmp_path / "adapter"))
    assert learned(again) == 4
