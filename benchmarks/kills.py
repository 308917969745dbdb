"""Kills `--overwrite` over an existing folder before chosen file operations, and looks at what is left.

    python benchmarks/kills.py --kills 100 [--recipe gptq]

Each time a process is forked that counts its file operations (folders made, files opened for writing, names given,
changed and deleted) and dies before the chosen one. Then the old or the new folder has to be whole, under its name or
where the next command finds it; a command that fails has to put it back; and `--resume` and `--overwrite`, in turn,
have to end with the new folder, byte by byte.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast
from transformers.utils import logging

import eckart
from eckart.checkpoint.output import replaced_of, unfinished_of
from eckart.errors import EckartError

KILLED = 9
OPERATIONS = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "shutil.rmtree")
TIMINGS = "eckart/timings.json"  # the one file in which two runs of the same differ


class Case:
    """A model, a folder that was made of it before, and what is to take its place.

    Args:
        place: an empty folder to work in.
        tokenizer: of the model.
        recipe: of the folder that is made; the one before is of ``svd-llm``.
    """

    def __init__(self, place: Path, tokenizer: PreTrainedTokenizerFast, recipe: str = "svd-llm") -> None:
        self.recipe = recipe
        self.place, self.model, self.out = place, place / "model", place / "out"
        self.text = place / "text.txt"
        self.text.write_text("".join(f"Line {n} says that {n} squared is {n * n}.\n" for n in range(40)))
        config = LlamaConfig(
            vocab_size=256,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=64,
        )
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(self.model)
        tokenizer.save_pretrained(self.model)
        self.compress("svd-llm", 0.9, out=place / "older")
        self.compress(out=place / "newer")
        self.old, self.new = contents(place / "older"), contents(place / "newer")

    def compress(
        self,
        recipe: str | None = None,
        keep: float = 0.7,
        *,
        out: Path | None = None,
        text: Path | None = None,
        **options: Any,
    ) -> None:
        """Run the command, on the text if it is given no other."""
        recipe, source = recipe or self.recipe, str(text or self.text)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            eckart.compress_checkpoint(
                self.model, out or self.out, recipe, keep, source, samples=2, length=16, **options
            )

    def reset(self) -> None:
        """Have the older folder where the output is to be, and nothing else."""
        for path in (self.out, unfinished_of(self.out), replaced_of(self.out)):
            shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(self.place / "older", self.out)

    def kill(self, number: int) -> int | None:
        """Overwrite, and die before operation ``number``; return how many there were if there were not so many."""
        self.reset()
        return operations(lambda: self.compress(overwrite=True), number, self.place / "count")

    def look(self, number: int) -> list[str]:
        """Return what is wrong after a kill."""
        found, wrong = contents(self.out), []
        if found not in (self.old, self.new) and (self.out.exists() or contents(replaced_of(self.out)) != self.old):
            wrong.append("neither folder is whole")
        recorded = (unfinished_of(self.out) / "eckart.json").exists() or found == self.new
        try:
            self.compress("svd-llm", text=self.place / "nowhere.txt", overwrite=True)
            wrong.append("a text that is not there was read")
        except EckartError as error:
            if "No text is called" not in str(error):
                wrong.append(f"a command that fails: {error}")
        if contents(self.out) not in (self.old, self.new):
            wrong.append("a command that fails does not put the folder back")
        # What died before it had noted anything down is gone on with by nobody.
        way = "resume" if number % 2 and recorded else "overwrite"
        try:
            self.compress(resume=way == "resume", overwrite=way == "overwrite")
        except EckartError as error:
            wrong.append(f"--{way}: {error}")
        if contents(self.out) != self.new:
            wrong.append(f"--{way} makes another folder")
        # Of the folder that is worked in an empty one may be left: it could be anybody's.
        beside = [unfinished_of(self.out), replaced_of(self.out)]
        if left := [path.name for path in beside if path.exists() and any(path.iterdir())]:
            wrong.append(f"{left} are left")
        return [f"before operation {number}: {text}" for text in wrong]


def operations(work: Callable[[], None], number: int, count: Path) -> int | None:
    """Do something in a process that dies before file operation ``number``; return their number if it does not."""
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)  # the others stayed behind
        done = 0

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal done
            writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            if event in OPERATIONS or writes:
                done += 1
                if done == number:
                    os._exit(KILLED)

        sys.addaudithook(hook)
        try:
            work()
            total, number = done, 0
            count.write_text(str(total))
            os._exit(0)
        except BaseException as error:
            count.write_text(f"{type(error).__name__}: {error}")
            os._exit(1)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code == KILLED:
        return None
    if code != 0:
        raise RuntimeError(f"the run that was to be killed failed: {count.read_text()}")
    return int(count.read_text())


def contents(folder: Path) -> dict[str, str]:
    """Return the hash of every file of a folder, but for the one in which two runs of the same differ."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    files.pop(TIMINGS, None)
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}


def chosen(total: int, kills: int) -> list[int]:
    """Return before which operations to kill: half of them spread over all, half among the last, where names change."""
    last = range(max(1, total - kills // 2 + 1), total + 1)
    rest = range(1, last.start)
    step = max(1, len(rest) // max(1, kills - len(last)))
    return [*rest[::step], *last][-kills:]


def main(
    kills: Annotated[int, typer.Option(min=2, help="How often.")] = 100,
    recipe: Annotated[str, typer.Option(help="Of what is made.")] = "svd-llm",
) -> None:
    """Kill so often, print what was wrong, and fail if anything was."""
    logging.disable_progress_bar()
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers.models import BPE

    backend = Tokenizer(BPE(vocab={c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    with tempfile.TemporaryDirectory() as place:
        case = Case(Path(place), PreTrainedTokenizerFast(tokenizer_object=backend), recipe)
        total = case.kill(1 << 30)
        assert total is not None
        wrong: list[str] = []
        numbers = chosen(total, kills)
        for number in numbers:
            case.kill(number)
            wrong += case.look(number)
    for line in wrong:
        print(line)
    print(f"{len(numbers)} kills before {total} file operations of one run, {len(wrong)} things wrong")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    typer.run(main)
