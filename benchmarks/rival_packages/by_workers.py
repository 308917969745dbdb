"""HQQ, llm-compressor's GPTQ, and AutoRound: a worker in the package's environment writes, and its file is weighed."""

from __future__ import annotations

import json

import eckart
from rival_packages.environments import Environment, RivalError
from rival_packages.made import Job, Made, bits_of, sizes_of, weight_counts, weight_files

FACTS_NAME = "facts.json"


def of_hqq(job: Job, bits: int, group: int) -> Made:
    """Round by half-quadratic splitting; the file is what the package's own ``save_quantized`` writes."""
    environment = Environment(job.tools, "hqq")
    version = environment.version("hqq")
    environment.work("hqq_worker", job.dense, job.scratch, str(bits), str(group))
    facts = json.loads((job.scratch / FACTS_NAME).read_text(encoding="utf-8"))
    return Made(
        job.scratch / "floats", facts["file_bytes"], facts["tensor_bytes"], facts["linear_bits"], "hqq", version
    )


def of_gptq(job: Job, bits: int, group: int, symmetric: bool) -> Made:
    """Round with feedback by llm-compressor; the file is in the format of compressed-tensors."""
    environment = Environment(job.tools, "llm-compressor")
    version = environment.version("llmcompressor")
    environment.work("gptq_worker", job.dense, job.tokens, job.scratch, str(bits), str(group), str(int(symmetric)))
    return _weighed(job, "llmcompressor", version)


def of_auto_round(job: Job, bits: int, group: int, iterations: int) -> Made:
    """Train the rounding by AutoRound; the file is in its own format."""
    environment = Environment(job.tools, "auto-round")
    version = environment.version("auto-round")
    options = (str(bits), str(group), str(iterations))
    environment.work("auto_round_worker", job.dense, job.tokens, job.scratch, *options)
    return _weighed(job, "auto-round", version)


def _weighed(job: Job, package: str, version: str) -> Made:
    """Return what a worker made that wrote the package's file to ``packed`` and its weights as floats to ``floats``."""
    files = weight_files(job.scratch / "packed")
    if not files:
        raise RivalError(f"{package} wrote no weights.")
    sizes = {name: size for path in files for name, size in sizes_of(path).items()}
    bits = bits_of(sizes, weight_counts(eckart.load_model(job.dense)))
    return Made(
        job.scratch / "floats",
        sum(path.stat().st_size for path in files),
        sum(sizes.values()),
        bits,
        package,
        version,
    )
