"""Exports a model of one block in every layout to a runtime, and prints how far it is off and what it takes.

python benchmarks/exports.py onnx
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from pathlib import Path

import torch
from transformers import BertConfig, BertForMaskedLM

import eckart

LAYOUTS: dict[str, tuple[list[str], float]] = {
    "two-factor": ([], 0.6),
    "pivoted": (["structure=pivoted"], 0.6),
    "shared": (["sharing=shared"], 0.6),
    "8-bit": (["precision=8-bit"], 0.4),
    "4-bit": (["precision=4-bit"], 0.25),
    "hybrid": (["structure=hybrid"], 0.6),
    "sparse-hybrid": (["structure=hybrid", "structure.base=2-of-4"], 0.8),
    "remapped": (["structure=remapped"], 0.6),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runtime")
    parser.add_argument("--quantize")
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("layouts", nargs="*", default=["dense", *LAYOUTS])
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    print(f"| layout | {options.runtime}: largest difference / largest logit | bytes in memory | bytes in the file |")
    print("|---|---|---|---|")
    for layout in options.layouts:
        torch.manual_seed(0)
        hidden = options.hidden
        sizes = {"hidden_size": hidden, "intermediate_size": 2 * hidden, "num_attention_heads": 4, "vocab_size": 64}
        model = BertForMaskedLM(BertConfig(**sizes, num_hidden_layers=1, max_position_embeddings=64)).eval()
        if layout in LAYOUTS:
            overrides, keep = LAYOUTS[layout]
            samples = [{"input_ids": torch.randint(64, (1, 32))} for _ in range(16)]
            eckart.compress(model.to(torch.bfloat16), "svd-llm", keep, samples, overrides=overrides)
        with tempfile.TemporaryDirectory() as place:
            done = eckart.export(model, options.runtime, Path(place) / "out", quantize=options.quantize)
        share = done.difference / done.largest
        print(f"| {layout} | {share:.1e} | {done.bytes_before} ({done.dtype}) | {done.bytes_written} |", flush=True)


if __name__ == "__main__":
    main()
