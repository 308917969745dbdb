"""Runs where AutoRound is: python auto_round_worker.py DENSE TOKENS OUT BITS GROUP ITERATIONS

Fills OUT with ``packed``, as AutoRound saves it, and ``floats``, a dense folder of the same weights in float32.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch
from auto_round import AutoRound
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer

BATCH = 4  # samples a step


def main(dense: Path, tokens: Path, out: Path, bits: int, group: int, iterations: int) -> None:
    """Quantise every linear in the blocks, symmetrically, with the package's defaults for all else."""
    ids = load_file(tokens)["ids"]
    samples = [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in ids]
    found = AutoRound(
        AutoModelForCausalLM.from_pretrained(dense, dtype="auto"),
        tokenizer=AutoTokenizer.from_pretrained(dense),
        bits=bits,
        group_size=group,
        sym=True,
        dataset=DataLoader(samples, BATCH),  # type: ignore[arg-type]  # a list is what it takes, too
        iters=iterations,
        nsamples=len(ids),
        seqlen=ids.shape[1],
        batch_size=BATCH,
        device_map="cpu",
        enable_torch_compile=False,
        seed=0,
    )
    found.quantize_and_save(str(out / "written"), format="auto_round,fake", inplace=False)
    for path in list((out / "written").rglob("config.json")):
        name = "packed" if "quantization_config" in path.read_text(encoding="utf-8") else "floats"
        shutil.move(path.parent, out / name)
    for path in (out / "packed").glob("*.safetensors"):
        save_file({name: _halved(tensor) for name, tensor in load_file(path).items()}, path, {"format": "pt"})


def _halved(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor in 16 bits where that loses nothing: on a CPU the package computes and saves in float32."""
    if tensor.dtype is not torch.float32:
        return tensor
    rounded = tensor.bfloat16()
    return rounded if torch.equal(rounded.float(), tensor) else tensor


if __name__ == "__main__":
    folders, numbers = [Path(text) for text in sys.argv[1:4]], [int(text) for text in sys.argv[4:7]]
    main(folders[0], folders[1], folders[2], numbers[0], numbers[1], numbers[2])
