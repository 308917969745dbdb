"""Hashes what every recipe writes, so that two versions of the engine can be compared byte by byte.

    python benchmarks/hashes.py -o before.jsonl [--stories FOLDER]
    python benchmarks/hashes.py -o after.jsonl [--stories FOLDER]
    python benchmarks/hashes.py --compare before.jsonl after.jsonl

Three tiny random models, and a model in FOLDER if there is one, are compressed in three ways: in memory, from disk to
disk, and in a sweep. A weight file is hashed by its tensors, not by its metadata, which holds versions. A sweep keeps
no weights; its row is hashed instead: bytes, ranks, perplexities. The hashes are those of one machine and one PyTorch:
run both versions in the same place. Only what is public is used, so that the script runs on either version.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from safetensors import safe_open
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

import eckart

WORDS = "the a one old small red boat girl dog tree saw found took lost and but in on under with it sea day"
KEEP = 0.6
SAMPLES, LENGTH = 6, 48
WAYS = ("memory", "disk", "sweep")
# Recipes that are several, one for each range of budgets, at sizes that choose the others. Layers as narrow as these
# need finer ranks for the smallest. And few bits at sizes where weights have to be factored, too.
OTHER_SIZES = (
    *((f"{name}+allocation.multiple=2", keep) for name in ("eckart-fast", "eckart-q") for keep in (0.8, 0.4, 0.2)),
    ("svd-llm+structure=hybrid+structure.base=2-of-4", 0.8),
    ("zs-svd-hq", 0.4),
    ("zs-svd+precision=4-bit", 0.2),
    ("io-svd+structure=pivoted+precision=4-bit+allocation.multiple=2", 0.2),
)
VARIANTS = (
    "svd-llm+sharing=shared",
    "svd-llm+sharing=shared+structure=pivoted",
    "io-svd+sharing=by-loss",
    "svd-llm+objective.affine=true",
    "aa-svd-layer+objective.affine=true",
    "aa-svd-layer+objective.residual_anchoring=1",
    "saes-svd+objective.residual_anchoring=1+objective.affine=true",
    "svd-llm+precision=8-bit",
    "zs-svd+precision=4-bit",
    "svd-llm+structure=pivoted",
    "io-svd+structure=pivoted+precision=4-bit",
    "svd-llm+structure=hybrid",
    "svd-llm+structure=remapped",
    "svd-llm+refinement=block",
    "svd-llm+objective.shrinkage=0.03+distillation=logits",
    "svd-llm+sharing=shared+refinement=block+distillation=logits",
)
# Where a recipe has such a field, it is set to this: trainings and searches are the slow parts.
SHORTER = {
    "allocation.epochs": 2,
    "allocation.training_samples": 2,
    "allocation.trial_samples": 2,
    "refinement.epochs": 2,
    "refinement.batch": 2,
    "distillation.epochs": 2,
}
WIDTHS: dict[str, Any] = {"vocab_size": 256, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
MODELS: dict[str, Callable[[], Any]] = {
    # Keys and values are narrower than queries.
    "llama": lambda: LlamaConfig(**WIDTHS, num_hidden_layers=2, num_key_value_heads=2, max_position_embeddings=128),
    # Transposed weights and biases.
    "gpt2": lambda: GPT2Config(
        vocab_size=256, n_embd=64, n_layer=2, n_head=4, n_positions=128, bos_token_id=0, eos_token_id=0
    ),
    # Blocks that are called with different masks, tied embeddings, 16-bit weights.
    "gemma3": lambda: Gemma3TextConfig(
        **WIDTHS,
        num_hidden_layers=2,
        num_key_value_heads=1,
        head_dim=16,
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention"],
        max_position_embeddings=128,
        dtype="bfloat16",
    ),
}


@dataclass(frozen=True)
class Case:
    """A recipe, what is changed in it, and how much is kept."""

    recipe: str
    overrides: tuple[str, ...] = ()
    keep: float = KEEP

    @property
    def label(self) -> str:
        """The recipe as ``eckart sweep`` takes it."""
        return "+".join((self.recipe, *self.overrides))


def all_cases() -> list[Case]:
    """Return every named recipe and every variant, shortened."""
    names = [*((name, KEEP) for name in (*eckart.RECIPES, *VARIANTS)), *OTHER_SIZES]
    return [shortened(name, keep) for name, keep in names]


def shortened(label: str, keep: float = KEEP) -> Case:
    """Return the case of a recipe as ``NAME+key=value+...``, with less training and searching."""
    name, *overrides = label.split("+")
    choices = eckart.load_recipe(name, overrides, keep).model_dump()
    for field, value in SHORTER.items():
        place, number = field.split(".")
        if number in choices[place]:
            overrides.append(f"{field}={value}")
    return Case(name, tuple(overrides), keep)


def make_model(name: str, folder: Path) -> None:
    """Write a random model of :data:`MODELS`, and a tokenizer of one token a byte."""
    config = MODELS[name]()
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            else:
                parameter.mul_(4)  # else blocks hardly change their input
    model.save_pretrained(folder)
    backend = Tokenizer(BPE(vocab={c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(folder)


def make_text(path: Path, seed: int) -> Path:
    """Write a text of a few kilobytes."""
    draw = random.Random(seed)
    words = WORDS.split()
    sentences = (" ".join(draw.choices(words, k=draw.randint(4, 11))).capitalize() + "." for _ in range(160))
    path.write_text("\n".join(sentences) + "\n", encoding="utf-8")
    return path


def hash_of_tensors(path: Path) -> str:
    """Return the SHA-256 of a weight file's tensors: names, dtypes, shapes and bytes, sorted by name."""
    found = hashlib.sha256()
    with safe_open(path, framework="pt") as file:
        for name in sorted(file.keys()):
            tensor = file.get_tensor(name)
            found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            found.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def hashes(folder: Path) -> dict[str, str]:
    """Return the hash of each weight file of a model, by its name."""
    found = {path.name: hash_of_tensors(path) for path in sorted(folder.glob("*.safetensors"))}
    if not found:
        raise FileNotFoundError(f"{folder.name} has no weight files")
    return found


class Bench:
    """A dense model on disk, the texts, and a place to work in.

    Args:
        name: of the model.
        source: its folder.
        place: an empty folder.
    """

    def __init__(self, name: str, source: Path, place: Path) -> None:
        self.name, self.source, self.place = name, source, place
        self.out = place / "out"
        self.calibration = make_text(place / "calibration.txt", seed=1)
        self.text = make_text(place / "test.txt", seed=2)
        self.model, self.tokenizer = eckart.load_model(source), eckart.load_tokenizer(source)

    def run(self, cases: Sequence[Case], ways: Sequence[str] = WAYS) -> Iterator[dict[str, Any]]:
        """Yield a line for each case and way."""
        for way, compress in (("memory", self.in_memory), ("disk", self.from_disk)):
            for case in cases if way in ways else ():
                yield self._line(case, way, compress)
        if "sweep" in ways:
            yield from self.in_sweep(cases)

    def in_memory(self, case: Case) -> dict[str, str]:
        """Compress a copy of the model and save it."""
        model = copy.deepcopy(self.model)
        text = str(self.calibration)
        options: dict[str, Any] = {"samples": SAMPLES, "length": LENGTH, "overrides": case.overrides}
        report = eckart.compress(model, case.recipe, case.keep, text, tokenizer=self.tokenizer, device="cpu", **options)
        eckart.save(model, report, self.out)
        return hashes(self.out)

    def from_disk(self, case: Case) -> dict[str, str]:
        """Compress the folder into another one."""
        text = str(self.calibration)
        options: dict[str, Any] = {"samples": SAMPLES, "length": LENGTH, "overrides": case.overrides}
        eckart.compress_checkpoint(self.source, self.out, case.recipe, case.keep, text, device="cpu", **options)
        return hashes(self.out)

    def in_sweep(self, cases: Sequence[Case]) -> Iterator[dict[str, Any]]:
        """Run the command for all cases of a size at once, and yield a line for each row."""
        for keep in dict.fromkeys(case.keep for case in cases):
            group = [case for case in cases if case.keep == keep]
            file = self.place / f"sweep-{keep:g}.sqlite"
            said = self._sweep(group, keep, file)
            rows, failures = read_sweep(file)
            for case in group:
                line = {"model": self.name, "recipe": case.label, "keep": keep, "way": "sweep"}
                if case.label in rows:
                    yield line | {"files": {"row": rows[case.label]}}
                else:
                    yield line | {"error": "failure", "message": failures.get(case.label, said)}

    def _sweep(self, cases: Sequence[Case], keep: float, file: Path) -> str:
        command = Path(sys.executable).with_name("eckart")
        options: dict[str, object] = {
            "--recipes": ",".join(case.label for case in cases),
            "--keep": f"{keep:g}",
            "--device": "cpu",
            "--calibration": self.calibration,
            "--samples": SAMPLES,
            "--length": LENGTH,
            "--text": self.text,
            "--windows": 2,
            "--window-length": 64,
        }
        line = [str(part) for part in (command, "sweep", self.source, "-o", file, *chain(*options.items()))]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
        return f"exit code {done.returncode}"

    def _line(self, case: Case, way: str, compress: Callable[[Case], dict[str, str]]) -> dict[str, Any]:
        line: dict[str, Any] = {"model": self.name, "recipe": case.label, "keep": case.keep, "way": way}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return line | {"files": compress(case)}
        except Exception as error:  # whatever it is, the other version has to raise it too
            first = (str(error).splitlines() or [""])[0].replace(str(self.place), "")
            return line | {"error": type(error).__name__, "message": first}
        finally:
            shutil.rmtree(self.out, ignore_errors=True)
            shutil.rmtree(self.out.with_name("out.unfinished"), ignore_errors=True)


def read_sweep(file: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Return the hash of what each row of a sweep measured, and the messages of failures, by the recipe's label."""
    if not file.exists():
        return {}, {}
    with closing(sqlite3.connect(file)) as connection:
        rows = dict(connection.execute("SELECT label, row FROM rows WHERE label != 'dense'").fetchall())
        failures = dict(connection.execute("SELECT label, message FROM failures").fetchall())
    return {label: hash_of_row(json.loads(text)) for label, text in rows.items()}, failures


def hash_of_row(row: dict[str, Any]) -> str:
    """Return the SHA-256 of what is the same in each run: not of seconds and versions, nor of how a recipe is spelt."""
    same = {name: row[name] for name in ("keep", "kept", "bytes", "ranks")}
    same["tokens"] = row["calibration"] and row["calibration"]["sha256"]
    same["texts"] = {name: [text["log_perplexity"], text["error"]] for name, text in row["texts"].items()}
    return hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()


def read_lines(path: Path) -> dict[tuple[str, str, float, str], dict[str, Any]]:
    """Return the lines of a file by model, recipe, size and way."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {(line["model"], line["recipe"], line["keep"], line["way"]): line for line in lines}


def differences(old: Path, new: Path) -> list[tuple[str, ...]]:
    """Return a row (model, recipe, keep, way, what differs) for each case that is not the same in two files.

    Messages of errors are not compared: words may change.
    """
    before, after = read_lines(old), read_lines(new)
    found: list[tuple[str, ...]] = []
    for key in dict.fromkeys((*before, *after)):
        what = difference(before.get(key), after.get(key))
        if what:
            found.append((key[0], key[1], f"{key[2]:g}", key[3], what))
    return found


def difference(old: dict[str, Any] | None, new: dict[str, Any] | None) -> str:
    """Return what differs between two lines of a case; nothing if they are the same."""
    if old is None or new is None:
        return "only in the old file" if new is None else "only in the new file"
    if old.get("error") != new.get("error"):
        return f"{outcome(old)} -> {outcome(new)}"
    before, after = old.get("files", {}), new.get("files", {})
    return ", ".join(name for name in sorted({*before, *after}) if before.get(name) != after.get(name))


def outcome(line: dict[str, Any]) -> str:
    """Return how a case ended."""
    return f"{line['error']}: {line['message']}" if "error" in line else "made"


def compare(old: Path, new: Path) -> bool:
    """Print what differs and a count; return whether nothing does."""
    found = differences(old, new)
    for row in found:
        print("| " + " | ".join(row) + " |")
    cases = read_lines(old) | read_lines(new)
    failed = Counter("error" in line for line in cases.values())[True]
    print(f"{len(cases)} cases, of which {failed} end with an error: {len(cases) - len(found)} same, {len(found)} not")
    return bool(cases) and not found


def measure(output: Path, benches: Iterable[tuple[str, Path]], place: Path) -> None:
    """Write a line for each case of each model, given by name and folder."""
    cases = all_cases()
    with output.open("w", encoding="utf-8") as file:
        for name, source in benches:
            start, work = time.perf_counter(), place / f"{name}-work"
            work.mkdir()
            for line in Bench(name, source, work).run(cases):
                file.write(json.dumps(line) + "\n")
                file.flush()
            print(f"{name}: {len(cases)} cases in {len(WAYS)} ways, {time.perf_counter() - start:.0f} s", flush=True)


def main(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write, a JSON object a line.")] = None,
    stories: Annotated[Path | None, typer.Option(help="Folder of a small real model, such as stories260k.")] = None,
    compared: Annotated[
        tuple[Path, Path] | None, typer.Option("--compare", help="Two such files, the older one first.")
    ] = None,
) -> None:
    """Write hashes, or compare two files of them; the exit code is 1 if they differ."""
    if (output is None) == (compared is None):
        raise typer.BadParameter("Give either --output FILE or --compare OLD NEW.")
    if compared is not None:
        raise typer.Exit(not compare(*compared))
    assert output is not None
    torch.set_num_threads(1)  # sums in another order are other bytes
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        sources = {name: place / name for name in MODELS}
        for name, source in sources.items():
            make_model(name, source)
        measure(output, [*sources.items(), *([] if stories is None else [("stories", stories)])], place)


if __name__ == "__main__":
    typer.run(main)
