"""Compares several processes with one, and kills them.

    python benchmarks/several_processes.py alike MODEL --text FILE
    python benchmarks/several_processes.py kills MODEL --text FILE --kills 20

``alike`` compresses a model in memory by every named recipe, in one process and in several that gloo connects, and
prints how far the weights are apart: the norm of the difference over the norm, of all layers, and of the worst of them.
Batches are of one sample, so that there is one for each process. The last column is one process with larger batches: as
far as rounding alone takes it.

``kills`` compresses a model from its files in two processes, kills one of them at some moment, waits for the other,
goes on with ``--resume``, and compares the folder with that of a run that nobody disturbed, byte by byte.
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import psutil
import torch
import typer
from kills import contents
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

import eckart
import eckart.data.calibration
from eckart import processes
from eckart.layers import FactoredLinear, QuantizedLinear

KEEP = 0.6
SHORTER = {"dobi-svd": ["allocation.epochs=1"]}  # whose steps every process takes itself
LONGEST = 60  # seconds, that a process may live on when another one is killed
KILLED_RECIPES = ("svd-llm", "aa-svd-anchored+refinement.epochs=2", "eckart")

app = typer.Typer(add_completion=False)


@app.command()
def work(model: Path, text: Path, recipes: str, samples: int, length: int, batch: int, out: Path) -> None:
    """Compress in memory, in whatever processes there are, and write the weights of all layers."""
    logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    eckart.data.calibration.BATCH_TOKENS = batch
    with processes.together():  # once for all recipes
        for name in recipes.split(","):
            loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
            start = time.perf_counter()
            eckart.compress(
                loaded,
                name,
                KEEP,
                str(text),
                tokenizer=AutoTokenizer.from_pretrained(model),
                samples=samples,
                length=length,
                overrides=SHORTER.get(name, ()),
            )
            if processes.rank() == 0:
                print(f"{name} {time.perf_counter() - start:.1f} s", flush=True)
                layers = {n: m for n, m in loaded.named_modules() if isinstance(m, FactoredLinear | QuantizedLinear)}
                save_file({n: m.dense_weight().contiguous() for n, m in layers.items()}, out / f"{name}.safetensors")


@app.command()
def alike(
    model: Path,
    text: Annotated[Path, typer.Option(help="To calibrate on.")],
    counts: Annotated[str, typer.Option(help="Of processes.")] = "2,4",
    recipes: Annotated[str, typer.Option(help="Names with commas between them; all by default.")] = "",
    samples: int = 4,
    length: int = 512,
) -> None:
    """Print how far several processes are from one, recipe by recipe."""
    names = recipes or ",".join(name for name in eckart.RECIPES)
    with tempfile.TemporaryDirectory() as place:
        ways = {"1": (1, length), **{count: (int(count), length) for count in counts.split(",")}}
        ways["1, larger batches"] = (1, 2 * length)
        for way, (count, batch) in ways.items():
            out = Path(place) / way
            out.mkdir()
            words = ["work", str(model), str(text), names, str(samples), str(length), str(batch), str(out)]
            _finish(started(count, [__file__, *words]), way)
        print("| recipe |", " | ".join(way for way in list(ways)[1:]), "|")
        print("|---|" + "---|" * (len(ways) - 1))
        for name in names.split(","):
            one = load_file(Path(place) / "1" / f"{name}.safetensors")
            cells = [apart(one, load_file(Path(place) / way / f"{name}.safetensors")) for way in list(ways)[1:]]
            print(f"| `{name}` |", " | ".join(cells), "|", flush=True)


def apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> str:
    """Return how far weights are apart, all of them and the worst layer."""
    if one.keys() != other.keys():
        return "other layers"
    if all(torch.equal(one[name], other[name]) for name in one):
        return "0"
    differences = {name: float((one[name] - other[name]).norm()) for name in one}
    norms = {name: float(one[name].norm()) for name in one}
    whole = sum(d**2 for d in differences.values()) ** 0.5 / sum(n**2 for n in norms.values()) ** 0.5
    worst = max(differences[name] / norms[name] for name in one)
    return f"{whole:.0e} ({worst:.0e})"


@app.command()
def kills(
    model: Path,
    text: Annotated[Path, typer.Option(help="To calibrate on.")],
    kills: Annotated[int, typer.Option(help="How often.")] = 20,
    seed: int = 0,
) -> None:
    """Kill a process so often, print what was wrong, and fail if anything was."""
    chance = random.Random(seed)
    wrong: list[str] = []
    longest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        whole = {name: _undisturbed(place, name, model, text) for name in KILLED_RECIPES}
        for number in range(kills):
            name = KILLED_RECIPES[number % len(KILLED_RECIPES)]
            out, seconds = place / "out", whole[name][1]
            victim, moment = chance.randrange(2), chance.uniform(0.2, 0.95) * seconds
            launcher, workers = launched(2, words_for(name, model, text, out))
            time.sleep(moment)
            begun = time.perf_counter()
            with suppress(psutil.NoSuchProcess):  # it may have finished
                workers[victim].kill()
            try:
                launcher.wait(LONGEST)
            except subprocess.TimeoutExpired:
                launcher.kill()
                wrong.append(f"{number}: process {1 - victim} lived on")
            longest = max(longest, time.perf_counter() - begun)
            again = started(2, words_for(name, model, text, out, "--resume"))
            errors = [process.communicate()[1] for process in again]
            if any(process.returncode for process in again):
                wrong.append(f"{number}: --resume failed: {errors}")
            elif contents(out) != whole[name][0]:
                wrong.append(f"{number}: --resume made another folder of {name}")
            print(f"{number}: {name}, process {victim} after {moment:.1f} s of {seconds:.1f} s", flush=True)
            shutil.rmtree(out, ignore_errors=True)
            shutil.rmtree(out.with_name("out.unfinished"), ignore_errors=True)
    for line in wrong:
        print(line)
    print(f"{kills} kills, {len(wrong)} things wrong; the other process ended within {longest:.1f} s")
    raise SystemExit(bool(wrong))


def _finish(running: list[subprocess.Popen[str]], what: str) -> None:
    said = [process.communicate()[1] for process in running]
    if any(process.returncode for process in running):
        raise SystemExit(f"{what}: {said}")


def _undisturbed(place: Path, name: str, model: Path, text: Path) -> tuple[dict[str, str], float]:
    out = place / "whole"
    start = time.perf_counter()
    _finish(started(2, words_for(name, model, text, out)), name)
    seconds = time.perf_counter() - start
    found = contents(out)
    shutil.rmtree(out)
    return found, seconds


def words_for(name: str, model: Path, text: Path, out: Path, *more: str) -> list[str]:
    """Return the command line of a run."""
    recipe, *changes = name.split("+")
    words = ["-m", "eckart", "compress", str(model), "-o", str(out), "--recipe", recipe, "--keep", str(KEEP)]
    words += ["--calibration", str(text), "--samples", "6", "--length", "512", "--memory", "1B", "-q"]
    return [*words, *(f"--set={change}" for change in changes), *more]


def launched(count: int, words: list[str]) -> tuple[subprocess.Popen[bytes], list[psutil.Process]]:
    """Let ``torchrun`` start Python in so many processes; give it and them. Where one ends it ends the others."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count), *words]
    launcher = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    workers: list[psutil.Process] = []
    while len(workers) < count and launcher.poll() is None:
        time.sleep(0.05)
        workers = psutil.Process(launcher.pid).children()
    return launcher, workers


def started(count: int, words: list[str]) -> list[subprocess.Popen[str]]:
    """Start Python in so many processes that find one another, as ``torchrun`` does; one is alone."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = []
    for number in range(count):
        environment: dict[str, Any] = {**os.environ, "OMP_NUM_THREADS": "1"}
        if count > 1:
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
            environment |= {"RANK": str(number), "LOCAL_RANK": str(number), "LOCAL_WORLD_SIZE": str(count)}
        found.append(subprocess.Popen([sys.executable, *words], env=environment, stderr=subprocess.PIPE, text=True))
    return found


if __name__ == "__main__":
    app()
