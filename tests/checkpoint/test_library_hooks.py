"""A compressed model that was written by anybody is loaded with this library, or not at all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.conftest import make_model
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, PreTrainedModel, Trainer, TrainingArguments

import eckart
from eckart.checkpoint.library_hooks import with_codes, with_note
from eckart.errors import EckartWarning
from eckart.layers import QuantizedLinear

# `import eckart` would help; nothing here may do that.
WITHOUT = """
import json, sys
from transformers import AutoModelForCausalLM
errors = []
for folder in sys.argv[1:]:
    try:
        AutoModelForCausalLM.from_pretrained(folder)
        errors.append(None)
    except Exception as error:
        errors.append(str(error))
assert "eckart" not in sys.modules
print(json.dumps(errors))
"""
COMPRESSED = Path(__file__).parents[1] / "fixtures" / "format1" / "two-factor"
ROWS = [{"input_ids": torch.arange(8), "labels": torch.arange(8)}] * 2


def load_without(*folders: Path) -> list[str | None]:
    """Return the error that each folder gives in a process that knows nothing of this library, or None if it loads."""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WITHOUT, *map(str, folders)], capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr
    errors: list[str | None] = json.loads(run.stdout.splitlines()[-1])
    return errors


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(torch.arange(8)[None]).logits
    return found


def written_by_eckart(model: PreTrainedModel, folder: Path) -> Path:
    eckart.save(model, folder)
    return folder


def written_by_transformers(model: PreTrainedModel, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


def written_in_shards(model: PreTrainedModel, folder: Path) -> Path:
    model.save_pretrained(folder, max_shard_size="20KB")
    assert (folder / "model.safetensors.index.json").is_file()
    return folder


def written_after_resizing(model: PreTrainedModel, folder: Path) -> Path:
    model.resize_token_embeddings(300, mean_resizing=False)
    return written_by_transformers(model, folder)


def written_after_merging(model: PreTrainedModel, folder: Path) -> Path:
    peft = pytest.importorskip("peft", reason="peft is not installed")
    ours = peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    return written_by_eckart(peft.get_peft_model(model, ours).merge_and_unload(), folder)


def written_by_trainer(model: PreTrainedModel, folder: Path) -> Path:
    arguments = TrainingArguments(
        str(folder), max_steps=1, save_steps=1, report_to="none", use_cpu=True, disable_tqdm=True
    )
    Trainer(model, arguments, train_dataset=ROWS).train()
    return folder / "checkpoint-1"


WAYS = (
    written_by_eckart,
    written_by_transformers,
    written_in_shards,
    written_by_trainer,
    written_after_resizing,
    written_after_merging,
)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_every_way_of_writing(tmp_path: Path) -> None:
    loaded = AutoModelForCausalLM.from_pretrained(COMPRESSED, dtype=torch.float32)
    folders = []
    for write in WAYS:
        folders.append(write(loaded, tmp_path / write.__name__))
        again, info = AutoModelForCausalLM.from_pretrained(folders[-1], output_loading_info=True)
        assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert torch.equal(logits(again), logits(loaded))
    loaded.dequantize().save_pretrained(tmp_path / "dense")
    assert "transformers_weights" not in json.loads((tmp_path / "dense" / "config.json").read_text())
    *errors, none = load_without(*folders, tmp_path / "dense")
    assert none is None
    assert all(error and "this-model-needs-import-eckart" in error for error in errors), errors


def test_a_trainer_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    options = {"save_steps": 1, "report_to": "none", "use_cpu": True, "disable_tqdm": True}
    checkpoint = written_by_trainer(AutoModelForCausalLM.from_pretrained(COMPRESSED), tmp_path / "run")
    trainer = Trainer(
        AutoModelForCausalLM.from_pretrained(COMPRESSED),
        TrainingArguments(str(tmp_path / "run"), max_steps=2, **options),
        train_dataset=ROWS,
    )
    trainer.train(resume_from_checkpoint=str(checkpoint))
    assert trainer.state.global_step == 2


def test_from_config_says_what_it_gives() -> None:
    config = AutoConfig.from_pretrained(COMPRESSED)
    with pytest.warns(EckartWarning, match="from_config gives a dense LlamaForCausalLM with random weights"):
        AutoModelForCausalLM.from_config(config)
    with torch.device("meta"):
        AutoModelForCausalLM.from_config(config)  # has no weights at all
    AutoModelForCausalLM.from_config(make_model("llama").config)  # a dense model has nothing to be warned of


def test_a_wrapped_function_keeps_its_name() -> None:
    def build(cls: type, config: object) -> str:
        """Build."""
        return "built"

    wrapped = with_note(build)
    assert wrapped.__doc__ == "Build."
    assert wrapped(PreTrainedModel, LlamaConfig()) == "built"


@pytest.mark.parametrize(("recipe", "keep"), [("int8", 0.6), ("int4", 0.4)])
@pytest.mark.filterwarnings("ignore:Nothing is factored, but")
def test_numbers_in_few_bits_are_counted(
    recipe: str, keep: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eckart.run.requirements.TRANSFORMERS", (5, 19))  # this runs with the oldest release, too
    model = make_model("llama")
    dense = model.num_parameters()
    eckart.save(model, eckart.compress(model, recipe, keep), tmp_path / "small")
    loaded = eckart.load_model(tmp_path / "small")
    scales = sum(layer.scale.numel() for layer in loaded.modules() if isinstance(layer, QuantizedLinear))
    assert loaded.num_parameters() == dense + scales
    assert loaded.num_parameters(only_trainable=True) < dense
    embedding = loaded.get_input_embeddings().weight.numel()
    assert loaded.num_parameters(exclude_embeddings=True) == dense + scales - embedding


def test_dense_models_are_counted_as_before() -> None:
    counted = with_codes(lambda model, only_trainable, exclude_embeddings: 7)
    assert counted(make_model("llama")) == 7
