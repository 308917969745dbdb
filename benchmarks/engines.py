"""Runs a tiny decoder in every layout in every engine, and prints how far each is from the model in memory.

python benchmarks/engines.py transformers onnx openvino peft trl lm-eval [--layouts pivoted ...]

vLLM is tests/serve. A number is the largest difference of logits over the largest logit; of lm-eval, the difference
of the perplexity to that of the same model made dense, over the latter.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

import eckart

LAYOUTS: dict[str, tuple[str, float, list[str]]] = {
    "two factors": ("svd-llm", 0.6, []),
    "pivots": ("svd-llm", 0.6, ["structure=pivoted"]),
    "shared basis": ("aa-svd-layer", 0.6, ["sharing=shared"]),
    "8-bit factors": ("svd-llm", 0.45, ["precision=8-bit"]),
    "4-bit factors": ("svd-llm", 0.27, ["precision=4-bit"]),
    "few bits and factors": ("svd-llm", 0.6, ["structure=hybrid"]),
    "2 of 4 and factors": ("svd-llm", 0.8, ["structure=hybrid", "structure.base=2-of-4"]),
    "remap": ("svd-llm", 0.6, ["structure=remapped"]),
    "int8": ("int8", 0.6, []),
    "int4": ("int4", 0.4, []),
    "gptq": ("gptq", 0.4, []),
}
TASK = """task: tiny
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list: [{{metric: word_perplexity}}]
"""
TRAINING: dict[str, Any] = {"max_steps": 2, "learning_rate": 0.01, "report_to": "none", "use_cpu": True, "bf16": False}


def make_tokenizer() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(BPE(vocab={token: place for place, token in enumerate([*alphabet, "<end>"])}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", pad_token="<end>")


def make(layout: str, folder: Path) -> PreTrainedModel:
    """Compress a model, write it, and return it as it is in memory."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(**sizes, num_key_value_heads=2, vocab_size=264, initializer_range=0.15, eos_token_id=256)
    model: PreTrainedModel = LlamaForCausalLM(config).eval()
    recipe, keep, overrides = LAYOUTS[layout]
    report = eckart.compress(model, recipe, keep, torch.randint(256, (16, 32)), overrides=overrides)
    eckart.save(model, report, folder, tokenizer=make_tokenizer())
    return model


@torch.no_grad()
def logits(model: Any) -> Tensor:
    found: Tensor = model(input_ids=torch.arange(48).reshape(2, 24)).logits
    return found


def apart(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def in_transformers(folder: Path, model: PreTrainedModel, scratch: Path) -> float:
    return apart(logits(AutoModelForCausalLM.from_pretrained(folder).eval()), logits(model))


def exported(runtime: str) -> Callable[[Path, PreTrainedModel, Path], float]:
    def run(folder: Path, model: PreTrainedModel, scratch: Path) -> float:
        done = eckart.export(folder, runtime, scratch / "out")
        return done.difference / done.largest

    return run


def in_peft(folder: Path, model: PreTrainedModel, scratch: Path) -> float:
    """Put the same adapter onto the compressed model and onto that model made dense."""
    import peft

    found = []
    for base in (eckart.load_model(folder), eckart.load_model(folder).dequantize()):
        ours = peft.get_peft_model(base, peft.LoraConfig(target_modules="all-linear", r=4)).eval()
        for name, parameter in sorted(ours.named_parameters()):
            if "lora_" in name:
                short = name.partition("model.layers")[2]
                generator = torch.Generator().manual_seed(sum(map(ord, short)))
                parameter.data = torch.randn(parameter.shape, generator=generator) / parameter.shape[-1] ** 0.5
        found.append(logits(ours))
    return apart(*found)


def in_trl(folder: Path, model: PreTrainedModel, scratch: Path) -> float:
    """Train an adapter, save it, and put it onto the model again."""
    import peft
    import trl
    from datasets import Dataset

    trainer = trl.SFTTrainer(
        eckart.load_model(folder),
        trl.SFTConfig(str(scratch), **TRAINING, save_strategy="no", max_length=16),
        train_dataset=Dataset.from_list([{"text": "Subject, verb, object."}] * 16),
        processing_class=make_tokenizer(),
        peft_config=peft.LoraConfig(target_modules=["q_proj", "v_proj"], r=2),
    )
    trainer.train()
    trainer.save_model(str(scratch / "adapter"))
    trained = logits(trainer.model.eval())
    if torch.equal(trained, logits(eckart.load_model(folder))):
        return math.inf  # nothing was learnt
    return apart(logits(peft.PeftModel.from_pretrained(eckart.load_model(folder), scratch / "adapter")), trained)


def in_lm_eval(folder: Path, model: PreTrainedModel, scratch: Path) -> float:
    """Run the command of lm-eval on the folder, and on the same model made dense."""
    (scratch / "text.jsonl").write_text(json.dumps({"text": "Line one says this. Line two says more of it."}) + "\n")
    (scratch / "tiny.yaml").write_text(TASK.format(data=scratch / "text.jsonl"))
    dense = copy.deepcopy(model).dequantize()
    dense.save_pretrained(scratch / "dense")
    make_tokenizer().save_pretrained(scratch / "dense")
    found = []
    for place in (folder, scratch / "dense"):
        words = ["lm_eval", "--model", "hf", "--model_args", f"pretrained={place},dtype=float32", "--tasks", "tiny"]
        words += [
            "--include_path",
            str(scratch),
            "--output_path",
            str(scratch / "results" / place.name),
            "--device",
            "cpu",
        ]
        start = [sys.executable, "-c", "from eckart.cli.main import main; main()", "run", "--"]
        subprocess.run([*start, *words], check=True, capture_output=True)
        (results,) = (scratch / "results" / place.name).rglob("results_*.json")
        found.append(json.loads(results.read_text())["results"]["tiny"]["word_perplexity,none"])
    return float(abs(found[0] / found[1] - 1))


ENGINES: dict[str, Callable[[Path, PreTrainedModel, Path], float]] = {
    "transformers": in_transformers,
    "onnx": exported("onnx"),
    "openvino": exported("openvino"),
    "executorch": exported("executorch"),
    "peft": in_peft,
    "trl": in_trl,
    "lm-eval": in_lm_eval,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engines", nargs="+", choices=ENGINES)
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    print(f"| layout | {' | '.join(options.engines)} |\n|{'---|' * (len(options.engines) + 1)}")
    for layout in options.layouts:
        with tempfile.TemporaryDirectory() as place:
            model = make(layout, Path(place) / "model")
            cells = []
            for engine in options.engines:
                scratch = Path(place) / engine
                scratch.mkdir()
                try:
                    cells.append(f"{ENGINES[engine](Path(place) / 'model', model, scratch):.1e}")
                except Exception as error:
                    cells.append(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
        print(f"| {layout} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
