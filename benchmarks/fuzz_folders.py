"""Runs damaged and hostile folders through the commands, and looks for tracebacks, hangs and what was touched.

    python benchmarks/fuzz_folders.py --cases 600 --seed 0

Every case is a copy of a small compressed or dense model, an unfinished run, a sweep's file or the output of a
measurement, changed by one of `mutations.py`. Required: a command succeeds or ends with a message and exit
code 2, no code of the folder runs, and neither the folder nor anything beside it changes.
"""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import os
import random
import signal
import stat
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parent))

import torch
from mutations import mutate as mutate
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from typer.testing import CliRunner

import eckart
from eckart.cli.main import app
from eckart.errors import EckartError

SECONDS = 60  # that one command may take
ANSWERS = "y\n" * 100  # to whatever is asked
QUICK = ["--samples", "2", "--length", "16"]


@dataclass
class Outcome:
    """What became of all cases.

    Attributes:
        cases: how many.
        ends: how often each command ended in each way.
        faults: what must not be, in words.
    """

    cases: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


class Bases:
    """The folders and files that cases are copies of, made once.

    Args:
        folder: to make them in.
    """

    def __init__(self, folder: Path) -> None:
        self.text = folder / "text.txt"
        self.text.write_text("".join(f"Line {number} of a text.\n" for number in range(40)))
        self.dense = folder / "dense"
        model = _tiny()
        model.save_pretrained(self.dense)
        _tokenizer().save_pretrained(self.dense)
        self.small, self.low_bit = folder / "small", folder / "few-bits"
        run("compress", self.dense, "-o", self.small, "--recipe", "svd-llm", "--keep", 0.6, *self.calibration)
        run(
            "compress",
            self.dense,
            "-o",
            self.low_bit,
            *["--recipe", "svd", "--keep", "0.3", "--set", "precision=8-bit", "-q"],
        )
        self.unfinished = folder / "unfinished"
        _stop_a_run(self)
        self.sweep = folder / "sweep.sqlite"
        run("sweep", self.dense, "--recipes", "svd", "--keep", 0.8, "--text", self.text, "-o", self.sweep, *QUICK[2:])
        self.evaluation = folder / "eval.json"
        self.evaluation.write_text(run("eval", self.small, "--text", self.text, *QUICK[2:], "--json").stdout)
        missing = [path for path in self.all if not path.exists()]
        if missing:
            raise RuntimeError(f"could not be made: {missing}")

    @property
    def calibration(self) -> list[object]:
        return ["--calibration", self.text, *QUICK, "-q"]

    @property
    def all(self) -> list[Path]:
        return [self.dense, self.small, self.low_bit, self.unfinished, self.sweep, self.evaluation]


def _stop_a_run(bases: Bases) -> None:
    """Make an unfinished run: a compression that stops behind its first block."""

    class Stop(eckart.Callback):
        def on_block(self, finished: int) -> None:
            raise EckartError("stopped")

    output = bases.unfinished.with_name("run")
    try:
        eckart.compress_checkpoint(
            bases.dense, output, "svd-llm", 0.6, str(bases.text), samples=2, length=16, callback=Stop()
        )
    except EckartError:
        output.with_name("run.unfinished").rename(bases.unfinished)


def run(*arguments: object) -> Any:
    """Run a command in this process, with a ``y`` for every question."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=ANSWERS)


def fuzz(cases: int, seed: int, folder: Path, tell: Callable[[str], None] = lambda line: None) -> Outcome:
    """Run so many cases.

    Args:
        cases: how many.
        seed: of all that is drawn.
        folder: an empty one, to work in.
        tell: is told each case.
    """
    bases, outcome = Bases(_new(folder / "bases")), Outcome()
    good, known = bases.small, _remote_code()
    for number in range(cases):
        chance = random.Random(f"{seed} {number}")
        base = bases.all[number % len(bases.all)]
        place, outside = _new(folder / f"case-{number}" / "in"), _new(folder / f"case-{number}" / "in" / "outside")
        for name in ("victim.bin", "model.safetensors", "tokenizer.1.0.0.json"):
            (outside / name).write_bytes(b"mine")
        target, told = mutate(base, place, outside, chance)
        tell(f"{number}: {base.name}: {told}")
        before = snapshot(place)
        for name, act in _actions(base, target, bases, good, place.parent / "out", chance):
            end = _end_of(act)
            outcome.ends[f"{name}: {end.splitlines()[0]}"] += 1
            changed = sorted(set(before.items()) ^ set(snapshot(place).items()))
            if end not in ("done", "refused", "left out"):
                outcome.faults.append(f"{number}: {base.name}: {told}: {name}: {end}")
            if (outside / "marker").exists() or _remote_code() - known:
                outcome.faults.append(f"{number}: {base.name}: {told}: {name}: code was run")
            elif (changed and base is not bases.unfinished) or any("outside" in path for path, _ in changed):
                outcome.faults.append(f"{number}: {base.name}: {told}: {name} changed {changed[:2]}")
        outcome.cases += 1
    return outcome


def _remote_code() -> set[str]:
    """Return the modules of models' own code that this process has imported."""
    return {name for name in sys.modules if name.startswith("transformers_modules")}


def _actions(
    base: Path, target: Path, bases: Bases, good: Path, out: Path, chance: random.Random
) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield what is done with a case."""
    text = bases.text
    if base is bases.unfinished:
        output = target.with_name("run")
        target.rename(target.with_name("run.unfinished"))
        options = ["-o", output, "--recipe", "svd-llm", "--keep", 0.6, *bases.calibration]
        yield "resume", lambda: run("compress", bases.dense, *options, "--resume")
        return
    yield "report", lambda: run("report", target, good, "-o", out.with_suffix(".html"))
    if target.is_file():
        return
    yield "inspect", lambda: run("inspect", target, *chance.choice(([], ["--json"], ["--map"])))
    yield "load_model", lambda: eckart.load_model(target)
    slow: list[tuple[str, Callable[[], Any]]] = [
        ("compress svd", lambda: run("compress", target, "-o", out, "--recipe", "svd", "--keep", 0.8, "-q")),
        ("compress", lambda: run("compress", target, "-o", out, "--recipe", "svd-llm", *bases.calibration)),
        ("eval", lambda: run("eval", target, "--text", text, "--length", 16, "--windows", 2)),
        ("merge", lambda: run("merge", target, "-o", out)),
    ]
    yield chance.choice(slow)


def _end_of(act: Callable[[], Any]) -> str:
    """Return how something ended: done, refused, left out (a report of the rest), or what must not be."""
    try:
        with warnings.catch_warnings(), _alarm():
            warnings.simplefilter("ignore")
            result = act()
    except EckartError:
        return "refused"
    except TimeoutError:
        return "hangs"
    except BaseException as error:
        return _traceback(error)
    if isinstance(result, torch.nn.Module):
        return "done"
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return "hangs" if isinstance(result.exception, TimeoutError) else _traceback(result.exception)
    if "Traceback" in result.output:
        return "a traceback is printed"
    ends = {0: "done", 1: "left out", 2: "refused"}
    if result.exit_code == 2 and "Error:" not in result.output and "Usage:" not in result.output:
        return "exit code 2 without a message"
    return ends.get(result.exit_code, f"exit code {result.exit_code}")


def _traceback(error: BaseException) -> str:
    return f"{type(error).__name__}\n{''.join(traceback.format_exception(error)[-6:])}"


@contextmanager
def _alarm() -> Iterator[None]:
    def ring(signum: int, frame: object) -> None:
        raise TimeoutError("took too long")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(SECONDS)
    faulthandler.dump_traceback_later(2 * SECONDS, exit=True)  # of what hears no signal
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def snapshot(folder: Path) -> dict[str, str]:
    """Return what is in a folder and below: kinds, sizes, hashes of small files, targets of links."""
    found = {}
    for path in sorted(folder.rglob("*")):
        facts = path.lstat()
        told = f"{stat.filemode(facts.st_mode)} {facts.st_size if not path.is_dir() else ''}"
        if path.is_symlink():
            told += f" {os.readlink(path)}"
        elif stat.S_ISREG(facts.st_mode) and facts.st_size < 2**24:
            told += f" {hashlib.sha256(path.read_bytes()).hexdigest()}"
        found[str(path.relative_to(folder))] = told
    return found


def _new(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def _tiny() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    return LlamaForCausalLM(config).eval()


def _tokenizer() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(BPE(vocab={character: i for i, character in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbose", action="store_true", help="say each case")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcome = fuzz(options.cases, options.seed, Path(folder), print if options.verbose else lambda line: None)
    for end, count in sorted(outcome.ends.items()):
        print(f"{count:6}  {end}")
    print(*outcome.faults, sep="\n")
    print(f"{outcome.cases} folders, {sum(outcome.ends.values())} commands, {len(outcome.faults)} faults")
    sys.exit(1 if outcome.faults else 0)


if __name__ == "__main__":
    main()
