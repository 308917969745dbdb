"""Measures the peak memory of compressing a model from disk against its depth, or under a hard limit.

    python benchmarks/memory.py --blocks 8 --blocks 16 --blocks 32
    # as root, since it makes a memory control group:
    python benchmarks/memory.py --blocks 192 --hidden 512 --recipe svd-llm --samples 8 --limit 800MB

Makes random Llama models in bfloat16, one shard a block, in a temporary folder, and compresses each in a process of
its own. Run nothing else meanwhile.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import torch
import typer
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig

import eckart
from eckart.run.memory import parse_bytes

VOCABULARY = 32_000
GROUPS = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")

CHILD = """
import json, sys, warnings
import torch, eckart
from eckart.device import host_memory, peak_host_memory
warnings.simplefilter("ignore")
source, out, recipe, keep, text, samples, length, memory, *overrides = sys.argv[1:]

class Listener(eckart.Callback):
    def on_start(self, plan, cost, finished):
        self.cost = cost

listener = Listener()
loaded = host_memory()
report = eckart.compress_checkpoint(
    source, out, recipe, float(keep), text, samples=int(samples), length=int(length), overrides=overrides,
    memory=int(memory) or None, observer=listener,
)
print(json.dumps({
    "loaded": loaded, "peak": peak_host_memory(), "expected": listener.cost.host_bytes,
    "in_memory": listener.cost.in_memory, "seconds": report.costs.timings.total,
    "expected_seconds": listener.cost.seconds,
    "parameters": report.parameters, "timings": report.costs.timings.model_dump(),
}))
"""


def make_model(folder: Path, blocks: int, hidden: int) -> None:
    """Write a random model without ever holding more than a block of it."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=hidden * 11 // 4,
        num_hidden_layers=blocks,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 128,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        dtype="bfloat16",
    )
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    with torch.device("meta"):
        shapes = {n: t.shape for n, t in AutoModelForCausalLM.from_config(config).state_dict().items()}
    del shapes["lm_head.weight"]
    generator = torch.Generator().manual_seed(0)
    weight_map: dict[str, str] = {}
    for prefix in [f"model.layers.{index}." for index in range(blocks)] + ["model.embed_tokens", "model.norm"]:
        names = [name for name in shapes if name.startswith(prefix)]
        tensors = {
            name: (
                torch.randn(shapes[name], generator=generator) / shapes[name][-1] ** 0.5
                if len(shapes[name]) > 1
                else torch.ones(shapes[name])
            ).bfloat16()
            for name in names
        }
        file = f"model-{prefix.strip('.')}.safetensors"
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(names, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def make_tokenizer(folder: Path) -> None:
    """Write a tokenizer with a token for each byte."""
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(BPE(vocab={character: i for i, character in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(folder)


@contextmanager
def control_group(limit: int | None) -> Iterator[Path | None]:
    """Give the file that a process writes its number into to be limited to ``limit`` bytes of memory."""
    if limit is None:
        yield None
        return
    root = next(path for path in GROUPS if (path / "cgroup.procs").exists() or (path / "tasks").exists())
    group = root / f"eckart-{os.getpid()}"
    group.mkdir()
    try:
        name = "memory.limit_in_bytes" if (group / "memory.limit_in_bytes").exists() else "memory.max"
        (group / name).write_text(str(limit))
        yield group / "cgroup.procs"
    finally:
        group.rmdir()


def main(
    blocks: Annotated[list[int], typer.Option(help="Blocks of the model; may be repeated.")],
    hidden: int = 1024,
    recipe: str = "aa-svd",
    epochs: Annotated[int, typer.Option(help="Of a refinement; memory does not depend on it.")] = 1,
    keep: float = 0.6,
    samples: int = 16,
    length: int = 256,
    memory: Annotated[str, typer.Option(help="What the run is told that it may take.")] = "0",
    limit: Annotated[str | None, typer.Option(help="Memory that the process is limited to.")] = None,
) -> None:
    """Print one row a model."""
    columns = (
        "blocks",
        "float32 size",
        "peak",
        "at import",
        "embedding, streams",
        "rest",
        "expected",
        "time",
        "expected",
    )
    print(f"| {' | '.join(columns)} |")
    print("|---|---|---|---|---|---|---|---|---|")
    for count in blocks:
        with tempfile.TemporaryDirectory() as name, control_group(parse_bytes(limit) if limit else None) as group:
            folder = Path(name)
            (folder / "model").mkdir()
            make_model(folder / "model", count, hidden)
            make_tokenizer(folder / "model")
            overrides = [f"refinement.epochs={epochs}"] if eckart.RECIPES[recipe].refinement.needs_data else []
            arguments = [recipe, keep, "python-docs", samples, length, parse_bytes(memory), *overrides]
            command = [sys.executable, "-c", CHILD, folder / "model", folder / "out", *arguments]
            shell = f'echo $$ > {group}; exec "$@"' if group else 'exec "$@"'
            result = subprocess.run(
                ["sh", "-c", shell, "sh", *map(str, command)], stdout=subprocess.PIPE, text=True, check=True
            )
            row = json.loads(result.stdout.splitlines()[-1])
            tokens = samples * length
            constant = VOCABULARY * hidden * 4 + (4 * tokens * hidden * 2 if row["in_memory"] else 0)
            cells = [4 * row["parameters"], row["peak"], row["loaded"], constant]
            cells += [row["peak"] - row["loaded"] - constant, row["expected"]]
            print(
                f"| {count} | "
                + " | ".join(f"{cell / 1e6:.0f} MB" for cell in cells)
                + f" | {row['seconds']:.0f} s | {row['expected_seconds']:.0f} s |",
                flush=True,
            )
            print(f"<!-- {row['timings']} in_memory={row['in_memory']} -->", flush=True)


if __name__ == "__main__":
    typer.run(main)
