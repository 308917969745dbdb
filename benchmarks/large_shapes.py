"""Random models of public shapes, written to disk block by block: for time and memory, not for quality.

    python benchmarks/large_shapes.py llama-3-8b FOLDER --blocks 2
    python benchmarks/large_shapes.py llama-3-8b FOLDER --keep 0.5 --precision 8-bit --device cuda

Weights are random numbers with columns of unlike size and some directions that stand out, so that singular values fall
as those of trained weights do. With ``--keep`` the linear layers of the blocks are two random factors from the start,
of ranks in multiples of 64: nothing is decomposed.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import BPE
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

import eckart
from eckart.checkpoint.config import EckartConfig
from eckart.checkpoint.guard import GUARD
from eckart.layers import QuantizedLinear
from eckart.methods.precision import PRECISIONS

FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
)
# The class of the config, and its fields in that order.
SHAPES: dict[str, tuple[Callable[..., PretrainedConfig], tuple[int, ...]]] = {
    "tinyllama-1.1b": (LlamaConfig, (32000, 2048, 5632, 22, 32, 4, 2048)),
    "llama-2-7b": (LlamaConfig, (32000, 4096, 11008, 32, 32, 32, 4096)),
    "llama-3-8b": (LlamaConfig, (128256, 4096, 14336, 32, 32, 8, 8192)),
    "qwen2.5-7b": (Qwen2Config, (152064, 3584, 18944, 28, 28, 4, 32768)),
    "gemma-3-27b": (partial(Gemma3TextConfig, head_dim=128), (262208, 5376, 21504, 62, 32, 16, 131072)),
    "tiny": (LlamaConfig, (256, 128, 192, 2, 4, 2, 256)),  # to try a script with
}
MULTIPLE = 64  # of ranks: what products on accelerators like
DIRECTIONS = 64  # that stand out of a weight
INDEX = "model.safetensors.index.json"


def shape(name: str, blocks: int | None = None, vocabulary: int | None = None) -> PretrainedConfig:
    """Return the config of a shape, with fewer blocks and tokens where that is asked for."""
    build, numbers = SHAPES[name]
    config = build(**dict(zip(FIELDS, numbers, strict=True)))
    config.dtype = torch.bfloat16
    if blocks is not None:
        config.num_hidden_layers = blocks
        if getattr(config, "layer_types", None) is not None:
            config.layer_types = config.layer_types[:blocks]
    if vocabulary is not None:
        config.vocab_size = vocabulary
    return config


def write(
    config: PretrainedConfig,
    folder: Path,
    *,
    keep: float | None = None,
    precision: str = "16-bit",
    device: str = "cpu",
    seed: int = 0,
) -> None:
    """Write a model in bfloat16, a file for each block.

    Args:
        config: of the model.
        folder: to make.
        keep: share of numbers that two factors take; None for a dense model.
        precision: of the factors.
        device: on which numbers are drawn.
        seed: of the numbers.
    """
    folder.mkdir(parents=True)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    fields = config.to_dict() | {"architectures": [type(model).__name__]}
    if keep is not None:
        compression = EckartConfig(
            ranks=_factor(model, keep, precision),
            precision=None if precision == "16-bit" else PRECISIONS[precision].model_validate({}).model_dump(),
            own_names=True,
            weights=INDEX,
        )
        fields["quantization_config"] = compression.to_dict()
        fields["transformers_weights"] = GUARD
    (folder / "config.json").write_text(json.dumps(fields, indent=2))
    generator = torch.Generator(device).manual_seed(seed)
    files: dict[str, str] = {}
    for number, names in enumerate(_groups(model)):
        file = f"model-{number:05}.safetensors"
        tensors = {name: _draw(name, model.get_submodule(name.rpartition(".")[0]), generator) for name in names}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        files |= dict.fromkeys(names, file)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": files}))


def write_tokenizer(folder: Path) -> None:
    """Write a tokenizer with a token for each byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(BPE(vocab={character: i for i, character in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(folder)


def _factor(model: PreTrainedModel, keep: float, precision: str) -> dict[str, int | None]:
    """Replace the linear layers of blocks by two factors without numbers, and return their ranks."""
    scheme = PRECISIONS[precision].model_validate({}).scheme
    ranks: dict[str, int | None] = {}
    for path, linear in list(model.named_modules()):
        if isinstance(linear, nn.Linear) and re.search(r"\.\d+\.", path):
            rows, columns = linear.weight.shape
            rank = max(int(keep * rows * columns / (rows + columns)) // MULTIPLE * MULTIPLE, MULTIPLE)
            parent, _, name = path.rpartition(".")
            factored = eckart.LowRankLinear.empty_like(linear, rank, scheme)
            setattr(model.get_submodule(parent), name, factored.to("meta"))
            ranks[path] = rank
    return ranks


def _groups(model: PreTrainedModel) -> Iterator[list[str]]:
    """Yield the names of all stored tensors, those of a block together."""
    tied = set(model.all_tied_weights_keys) if model.config.tie_word_embeddings else set()
    names = [name for name in model.state_dict() if name not in tied]
    for _, group in groupby(names, lambda name: found[0] if (found := re.search(r"\.\d+\.", name)) else ""):
        yield list(group)


def _draw(name: str, owner: nn.Module, generator: torch.Generator) -> Tensor:
    like: Tensor = owner.state_dict(keep_vars=True)[name.rpartition(".")[2]]
    place: dict[str, Any] = {"generator": generator, "device": generator.device}
    if isinstance(owner, QuantizedLinear) and name.endswith("codes"):
        low, high = (0, 256) if like.dtype == torch.uint8 else (-127, 128)
        drawn = torch.randint(low, high, like.shape, dtype=like.dtype, **place)
    elif isinstance(owner, QuantizedLinear) and name.endswith("scale"):
        drawn = torch.full(like.shape, 0.02 / 64, device=generator.device)
    elif like.ndim == 1:
        drawn = torch.zeros(like.shape) if name.endswith("bias") else torch.ones(like.shape)
    elif isinstance(owner, nn.Linear):
        drawn = _like_trained(like.shape, place)
    else:
        drawn = 0.02 * torch.randn(like.shape, **place)
    return drawn.to(like.dtype).cpu().contiguous()


def _like_trained(size: torch.Size, place: dict[str, Any]) -> Tensor:
    rows, columns = size
    spread = torch.exp(0.4 * torch.randn(columns, **place))
    weight: Tensor = torch.randn(rows, columns, **place) * spread * columns**-0.5
    count = min(DIRECTIONS, rows, columns)
    sizes = torch.arange(1, count + 1, device=weight.device) ** -0.5
    left, right = torch.randn(rows, count, **place) * sizes, torch.randn(count, columns, **place)
    weight += 4 * (left @ right) * (rows * columns) ** -0.5
    return weight / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--blocks", type=int)
    parser.add_argument("--vocabulary", type=int)
    parser.add_argument("--keep", type=float)
    parser.add_argument("--precision", choices=PRECISIONS, default="16-bit")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    config = shape(options.shape, options.blocks, options.vocabulary)
    write(config, options.folder, keep=options.keep, precision=options.precision, device=options.device)


if __name__ == "__main__":
    main()
