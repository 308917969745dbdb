"""Runs where HQQ is: python hqq_worker.py DENSE OUT BITS GROUP

Fills OUT with ``packed``, as HQQ saves it, ``floats``, a dense folder of the same weights in float32, and facts.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from hqq.core.quantize import BaseQuantizeConfig, HQQLinear, Quantizer
from hqq.models.hf.base import AutoHQQHFModel
from transformers import AutoModelForCausalLM

WEIGHTS = "qmodel.pt"
COMPUTE = torch.float16  # HQQ's default: scales, zero points and what is not quantised are stored in it


def main(dense: Path, out: Path, bits: int, group: int) -> None:
    """Quantise every linear in the blocks along its inputs."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(dense, dtype=COMPUTE)
    config = BaseQuantizeConfig(nbits=bits, group_size=group, axis=1)
    AutoHQQHFModel.quantize_model(model, quant_config=config, compute_dtype=COMPUTE, device="cpu")
    AutoHQQHFModel.save_quantized(model, str(out / "packed"))
    floats = AutoModelForCausalLM.from_pretrained(dense, dtype=torch.float32)
    stored, weights, tensors = 0, 0, 0
    for path, layer in model.named_modules():
        if isinstance(layer, HQQLinear):
            meta = {key: value.float() if torch.is_tensor(value) else value for key, value in layer.meta.items()}
            meta["compute_dtype"] = torch.float32
            floats.get_submodule(path).weight.data = Quantizer.dequantize(layer.W_q.data, meta)
            kept = [layer.W_q, *(value for value in layer.meta.values() if torch.is_tensor(value))]
            stored += sum(tensor.numel() * tensor.element_size() for tensor in kept)
            weights += floats.get_submodule(path).weight.numel()
    quantised = {path for path, layer in model.named_modules() if isinstance(layer, HQQLinear)}
    for name, parameter in floats.named_parameters():
        if name.rpartition(".")[0] not in quantised:
            parameter.data = parameter.data.to(COMPUTE).float()
            tensors += parameter.numel() * COMPUTE.itemsize
    floats.save_pretrained(out / "floats")
    facts = {
        "file_bytes": (out / "packed" / WEIGHTS).stat().st_size,
        "tensor_bytes": tensors + stored,
        "linear_bits": 8 * stored / weights,
    }
    (out / "facts.json").write_text(json.dumps(facts), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
