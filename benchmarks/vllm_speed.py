"""Tokens a second in vLLM: SmolLM2 dense, in two factors, in pivots, in 8-bit factors, in few bits with and without.

``int8`` is left out: vLLM has no product for it on a CPU.

    sh benchmarks/install_vllm.sh FOLDER
    python benchmarks/vllm_speed.py make MODELS               # in Eckart's own environment
    FOLDER/bin/python benchmarks/vllm_speed.py time MODELS    # in that of vLLM

The last step loads all models of the folder at the same time and runs each once in a round. Nothing else may run
meanwhile. On an accelerator take random weights of the shape of Llama-3-8B (34 GB), which are made there:

    python benchmarks/vllm_speed.py make-large MODELS --device cuda
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import large_shapes

import eckart
from eckart.cli.demo.model import find_demo_model
from eckart.data.text import PYTHON_DOCS
from eckart.evaluate.speed.served import compare_served

# How fast a model is depends on its shapes alone: no data where none is needed.
CASES: dict[str, tuple[str, float, list[str]]] = {
    "two-factor-0.6": ("svd", 0.6, []),
    "pivots-0.6": ("svd", 0.6, ["structure=pivoted"]),
    "two-factor-8-bit-0.3": ("svd", 0.3, ["precision=8-bit"]),
    "eckart-q-0.3": ("eckart-q", 0.3, []),
    "int4": ("int4", 0.28, []),
}
# By name: the share of numbers that two factors take, and their precision.
LARGE: dict[str, tuple[float | None, str]] = {
    "dense": (None, "16-bit"),
    "two-factor-0.5": (0.5, "16-bit"),
    "two-factor-8-bit-0.5": (0.5, "8-bit"),
}


def make(folder: Path, text: str) -> None:
    """Write the dense model and those that are compressed, as far as they are not there."""
    folder.mkdir(parents=True, exist_ok=True)
    source = find_demo_model()
    tokenizer = eckart.load_tokenizer(source)
    if tokenizer is not None and not (folder / "dense").exists():
        eckart.load_model(source).save_pretrained(folder / "dense")
        tokenizer.save_pretrained(folder / "dense")
    for name, (recipe, keep, overrides) in CASES.items():
        if not (folder / name).exists():
            model = eckart.load_model(folder / "dense")
            report = eckart.compress(model, recipe, keep, calibration=text, tokenizer=tokenizer, overrides=overrides)
            eckart.save(model, report, folder / name, tokenizer=tokenizer)
            print(f"Wrote {name}.", flush=True)


def make_large(folder: Path, shape: str, device: str) -> None:
    """Write random models of a public shape, as far as they are not there."""
    for name, (keep, precision) in LARGE.items():
        if not (folder / name).exists():
            large_shapes.write(large_shapes.shape(shape), folder / name, keep=keep, precision=precision, device=device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("make", "make-large", "time"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shape", default="llama-3-8b", choices=large_shapes.SHAPES)
    parser.add_argument("--device", default="cpu", help="that random weights are drawn on")
    parser.add_argument("--text", default=PYTHON_DOCS, help="calibration text, as `eckart compress` takes it")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--generate", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    options = parser.parse_args()
    if options.step == "make":
        make(options.folder, options.text)
        return
    if options.step == "make-large":
        make_large(options.folder, options.shape, options.device)
        return
    found = sorted((path for path in options.folder.iterdir() if path.is_dir()), key=lambda path: path.name != "dense")
    speeds = compare_served(
        [str(path) for path in found],
        dtype=options.dtype,
        batches=options.batch,
        generate=options.generate,
        repeats=options.repeats,
    )
    for speed in speeds:
        print(json.dumps(speed.model_dump()))


if __name__ == "__main__":
    main()
