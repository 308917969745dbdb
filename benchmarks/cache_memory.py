"""Measures the key-value cache while a model decodes: bytes on its tensors, memory of the process, time of a step.

    python benchmarks/cache_memory.py FOLDER --tokens 512 --tokens 4096
    python benchmarks/cache_memory.py --shape qwen2-0.5b --blocks 4 --tokens 16384

FOLDER is a factored model. Without one, a random model of a public shape is factored by the plain SVD. Each cache is
measured in a process of its own, which reads a text in pieces, and then decodes. Time nothing else meanwhile.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Annotated

import torch
import typer
from transformers import AutoModelForCausalLM, Qwen2Config

import eckart
from eckart.device import peak_host_memory
from eckart.evaluate.caches import CacheKind, cache_bytes
from eckart.evaluate.windows import name_of_cache

SHAPES = {
    "qwen2-0.5b": Qwen2Config(
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        vocab_size=1024,  # the embedding has no part in this
        tie_word_embeddings=True,
        max_position_embeddings=32768,
    ),
    "llama-2-7b": Qwen2Config(
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=32,
        vocab_size=1024,
        tie_word_embeddings=True,
        max_position_embeddings=32768,
    ),
}
STEPS = 8
PIECE = 512

app = typer.Typer(add_completion=False)


@app.command()
def main(
    folder: Annotated[Path | None, typer.Argument(help="A factored model.")] = None,
    shape: Annotated[str, typer.Option(help=f"Of a random model: {', '.join(SHAPES)}.")] = "qwen2-0.5b",
    blocks: Annotated[int | None, typer.Option(help="Of the random model.  [default: all]")] = None,
    keep: Annotated[float, typer.Option(help="Of the bytes of its linear layers.")] = 0.6,
    tokens: Annotated[list[int], typer.Option(help="In the cache; may be repeated.")] = [512],  # noqa: B006
    cache: Annotated[list[str], typer.Option(help="As for `eckart eval`; may be repeated.")] = [  # noqa: B006
        "dense",
        "latent",
        "latent:8",
    ],
    threads: int = 1,
) -> None:
    """Print a row for each cache and number of tokens."""
    print("| tokens | cache | bytes a token | cache | memory of the process | with no token | ms a step |")
    print("|" + "---|" * 7)
    with tempfile.TemporaryDirectory() as made:
        source = folder or _random(Path(made) / "model", shape, blocks, keep)
        for count in tokens:
            for kind in cache:
                row = json.loads(_apart(source, kind, count, threads))
                print(
                    f"| {count} | {kind} | {row['cache'] / count:,.0f} | {row['cache'] / 1e6:.1f} MB | "
                    f"{row['peak'] / 1e6:.0f} MB | {row['before'] / 1e6:.0f} MB | {1000 * row['step']:.0f} |",
                    flush=True,
                )


def _random(folder: Path, shape: str, blocks: int | None, keep: float) -> Path:
    torch.manual_seed(0)
    config = SHAPES[shape]
    config.num_hidden_layers = blocks or config.num_hidden_layers
    config.layer_types = config.layer_types[: config.num_hidden_layers]
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    report = eckart.compress(model, "svd", keep)
    eckart.save(model, report, folder)
    return folder


def _apart(folder: Path, kind: str, tokens: int, threads: int) -> str:
    line = [sys.executable, __file__, "work", str(folder), kind, str(tokens), str(threads)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout.splitlines()[-1]


@torch.inference_mode()
def work(folder: str, kind: str, tokens: int, threads: int) -> None:
    """Fill a cache, decode, and print what was measured as JSON."""
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore")
    model = eckart.load_model(folder, dtype=torch.float32)
    make_cache, name = CacheKind.parse(kind).prepare(model), name_of_cache(model)
    ids = torch.randint(model.get_input_embeddings().weight.shape[0], (1, tokens))
    used = make_cache()
    before = peak_host_memory()
    for piece in torch.split(ids, PIECE, dim=1):
        model(input_ids=piece, use_cache=True, logits_to_keep=1, **{name: used})
    held = cache_bytes(used)
    steps = []
    for _ in range(STEPS):
        start = perf_counter()
        model(input_ids=ids[:, :1], use_cache=True, **{name: used})
        steps.append(perf_counter() - start)
    print(json.dumps({"cache": held, "before": before, "peak": peak_host_memory(), "step": median(steps)}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["work"]:
        work(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
    else:
        app()
