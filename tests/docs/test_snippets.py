"""Every snippet of the documentation and of the README is run, page by page and in order.

A tiny random model stands where the pages name a real one, and tiny tasks where they name tasks. So what is checked is
that each command and each block of Python works, that a documented mistake fails as shown, and that a command prints
the words that the page shows.
"""

from __future__ import annotations

import re
import shlex
import shutil
import tomllib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import lm_eval.tasks
import pytest
from sybil import Document, Example, Region, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser
from tests import tiny
from tests.conftest import VOCABULARY, byte_tokenizer
from tests.evaluate.helpers import with_an_end, write_task
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel
from typer.testing import CliRunner

import eckart
from eckart.cli.main import app
from eckart.methods.allocation import ALLOCATIONS
from eckart.methods.objectives import OBJECTIVES
from eckart.methods.structure import STRUCTURES

pytestmark = pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning")

ROOT = Path(__file__).parents[2]
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
REGISTRIES = {f"eckart.{registry.place}": registry for registry in (OBJECTIVES, ALLOCATIONS, STRUCTURES)}

# Real models and data sets are larger than what stands for them; so many are enough here.
CAPS = {"--samples": 6, "--length": 64, "--windows": 2, "--prompt": 8, "--generate": 4, "--repeats": 2}
SIZES = {"compress": ("--samples", "--length"), "eval": ("--windows", "--length")}  # given where a page gives none
SMALLER = {
    "allocation.multiple=16": "allocation.multiple=1",
    "allocation.multiple=8": "allocation.multiple=1",
    "structure.base.group=64": "structure.base.group=16",
}
NOT_RUN = ("pip ", "python -m venv ", "git ", "cd ", "make", "source ", "export ", ". ")  # what sets a machine up
DENSE = ("smollm2", "dense-model", "path/or/id", "HuggingFaceTB/SmolLM2-135M", "HuggingFaceTB/SmolLM2-135M-Instruct")
TASKS = ("arc_easy", "piqa", "hellaswag")
# Words that depend on how long a command took or on what the model itself says.
VARIABLE_WORDS = {"min", "GB", "MB", "kB", "reading", "multiplying", "overhead"}
NEEDED = {"fine-tune.md": "peft"}  # by page, a package that may not be installed
EXECUTED = {"python", "console", "toml", "yaml"}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the pages speak of: models, texts, and a model that was compressed."""
    folder = tmp_path_factory.mktemp("template")
    model = _model(hidden_size=32, intermediate_size=48)
    tokenizer = with_an_end(byte_tokenizer())
    for name in TASKS:
        write_task(folder / "tasks", name)
    for name in DENSE:
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    for name in ("smaller", "eight"):
        compressed = eckart.load_model(folder / "smollm2")
        report = eckart.compress(compressed, "svd", 0.6)
        eckart.save(compressed, report, folder / name, tokenizer=tokenizer)
    text = "\n".join(f"Line {i} says that {i} squared is {i * i}." for i in range(200))
    for name in ("mine.txt", "wikitext2.test.txt", "ptb.test.txt"):
        (folder / name).write_text(text)
    (folder / "texts.jsonl").write_text("\n".join(f'{{"text": "{line}"}}' for line in text.splitlines()))
    _write_kinds(folder)
    return folder


def _write_kinds(folder: Path) -> None:
    """Write models of other kinds, dense and compressed, and what they are asked about."""
    for name, kind in (("vit", "vit"), ("vlm", "llava"), ("bert", "bert")):
        model, processor = tiny.make(kind)
        model.save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
    vit, processor = tiny.make("vit", seed=1)
    vit.save_pretrained(folder / "small-vit")
    processor.save_pretrained(folder / "small-vit")
    bert, processor = tiny.make("bert")
    eckart.save(bert, eckart.compress(bert, "svd", 0.6), folder / "small-bert", tokenizer=processor)
    for number, shape in enumerate(("circle", "square", "circle")):
        tiny.write_image(folder / "photos" / shape / f"{number}.png", seed=number)
    rows = [{"image": "photos/circle/0.png", "prompt": "What is shown?", "answer": "a circle"}] * 4
    tiny.write_rows(folder / "questions.jsonl", rows)
    (folder / "pairs.tsv").write_text("".join(f"{'a' * i}\t{'b' * i}\t{i % 3}\n" for i in range(1, 6)))


@pytest.fixture
def place(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which a page's commands are run."""
    shutil.copytree(template, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    monkeypatch.setattr("eckart.cli.demo.find_demo_model", lambda: template / "smollm2")
    whole = lm_eval.tasks.TaskManager
    tasks = {"include_defaults": False, "include_path": str(template / "tasks")}
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", lambda **given: whole(**{**given, **tasks}))
    for registry in REGISTRIES.values():
        monkeypatch.setattr(registry, "_added", {})
    return tmp_path / "place"


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # of PEFT
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_snippet_of_a_page_works(page: Path, place: Path) -> None:
    if page.name in NEEDED:
        pytest.importorskip(NEEDED[page.name])
    if page.name == "tutorial.md":  # has to stand on its own
        for entry in place.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    if page.name == "README.md":  # makes a folder that others find, of a model wide enough for 4 bits and factors
        shutil.rmtree(place / "smaller")
        _model(hidden_size=128, intermediate_size=192).save_pretrained(place / "HuggingFaceTB/SmolLM2-135M-Instruct")
    document = _sybil().parse(page)
    document.namespace["__name__"] = "snippets"
    for example in document.examples():
        example.evaluate()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_is_run_or_is_plain_text(page: Path) -> None:
    opening = re.findall(r"^ *```(.*)\n(?:(?! *```).*\n)* *```$", page.read_text(), re.MULTILINE)
    assert {info.partition(" ")[0] for info in opening} <= EXECUTED | {"text", "python-excerpt"}


def _model(**sizes: int) -> PreTrainedModel:
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        **sizes,
    )
    return AutoModelForCausalLM.from_config(config)


def _sybil() -> Sybil:
    parsers: list[Callable[[Document], Iterable[Region]]] = [
        PythonCodeBlockParser(),
        CodeBlockParser("console", _console),
        CodeBlockParser("toml", _toml),
        CodeBlockParser("yaml", _yaml),
    ]
    return Sybil(parsers, pattern="*.md")


def _console(example: Example) -> None:
    """Run the lines behind a ``$``, each with the output that is shown below it."""
    for command, shown in _commands(example.parsed):
        if command.startswith(NOT_RUN):
            continue
        wrong = "Error:" in shown
        printed = _run(command, expected_exit=2 if wrong else 0)
        missing = _words(shown) - _words(printed) - VARIABLE_WORDS
        assert not missing, f"{example.path}:{example.line}: {command} does not print {sorted(missing)}:\n{printed}"


def _commands(text: str) -> Iterator[tuple[str, str]]:
    for part in re.split(r"^\$ ", text.replace("\\\n", " "), flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        yield command, shown


def _words(text: str) -> set[str]:
    return set(re.findall(r"\b[^\W\d_]{3,}\b", text))


def _run(command: str, *, expected_exit: int) -> str:
    program, *arguments = shlex.split(command, comments=True)
    target = arguments.pop() if arguments[-2:-1] == [">"] else None
    if target:
        arguments.pop()
    assert program == "eckart", f"no way to run {command!r} in a test"
    arguments = [SMALLER.get(argument, argument) for argument in arguments]
    for option in SIZES.get(arguments[0], ()):
        if option not in arguments:
            arguments += [option, str(CAPS[option])]
    for number, argument in enumerate(arguments):
        if argument in CAPS and arguments[number + 1].isdigit():
            arguments[number + 1] = str(min(CAPS[argument], int(arguments[number + 1])))
    if arguments[0] == "compress" and "aa-svd" in arguments:
        arguments += ["--set", "refinement.epochs=1"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == expected_exit, f"{command}\n{result.output}\n{result.exception!r}"
    if target:
        Path(target).write_text(result.stdout)
    return result.output


def _toml(example: Example) -> None:
    """Check that the entry points name choices of the page, under the groups that are looked at."""
    for group, points in tomllib.loads(example.parsed)["project"]["entry-points"].items():
        for name, value in points.items():
            choice = example.namespace[value.partition(":")[2]]
            assert REGISTRIES[group][name] is choice


def _yaml(example: Example) -> None:
    """Write a recipe to the file that its first line names, for the commands behind it."""
    name = example.parsed.splitlines()[0].removeprefix("# ")
    Path(name).write_text(example.parsed)
    eckart.load_recipe(name)
