"""Runs where llm-compressor is: python gptq_worker.py DENSE TOKENS OUT BITS GROUP SYMMETRIC

Fills OUT with ``packed``, as llm-compressor saves it, and ``floats``, a dense folder of the same weights in float32,
read back from it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.quantization_config import CompressedTensorsConfig


def main(dense: Path, tokens: Path, out: Path, bits: int, group: int, symmetric: bool) -> None:
    """Quantise every linear in the blocks, with the package's defaults but for bits, group and zero points."""
    ids = load_file(tokens)["ids"]
    samples = [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in ids]
    model = AutoModelForCausalLM.from_pretrained(dense, dtype=torch.float32)  # CPUs may emulate products of 16 bits
    weights = QuantizationArgs(num_bits=bits, type="int", symmetric=symmetric, strategy="group", group_size=group)
    scheme = QuantizationScheme(targets=["Linear"], weights=weights)
    modifier = GPTQModifier(config_groups={"group_0": scheme}, ignore=["lm_head"])
    oneshot(
        model=model,
        tokenizer=AutoTokenizer.from_pretrained(dense),
        dataset=DataLoader(samples, batch_size=1),  # type: ignore[arg-type]  # a list is what it takes, too
        recipe=modifier,
        num_calibration_samples=len(ids),
        max_seq_length=ids.shape[1],
    )
    model.save_pretrained(out / "packed", save_compressed=True)
    for path in (out / "packed").glob("*.safetensors"):
        save_file({name: _halved(tensor) for name, tensor in load_file(path).items()}, path, {"format": "pt"})
    config = CompressedTensorsConfig(dequantize=True)
    read = AutoModelForCausalLM.from_pretrained(out / "packed", dtype=torch.float32, quantization_config=config)
    floats = AutoModelForCausalLM.from_pretrained(dense, dtype=torch.float32)
    found = read.state_dict()
    floats.load_state_dict({name: found[name].float() for name in floats.state_dict()})
    floats.save_pretrained(out / "floats")


def _halved(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor in the dtype of the dense model's file, which scales and embeddings would otherwise have."""
    return tensor.bfloat16() if tensor.dtype is torch.float32 else tensor


if __name__ == "__main__":
    folders, numbers = [Path(text) for text in sys.argv[1:4]], [int(text) for text in sys.argv[4:7]]
    main(folders[0], folders[1], folders[2], numbers[0], numbers[1], numbers[2] == 1)
