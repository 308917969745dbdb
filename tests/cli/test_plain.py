from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest
from rich.table import Table
from rich.text import Text
from tests.cli.helpers import run, words

from eckart.cli.plain import PlainConsole, literal
from eckart.cli.progress import progress_display

NAMES = ["[bold]", "m[red]x", "a [/b] c", "\\[escaped]", ":smile:", "模型 é", "[link=https://x]y[/link]", "{0}%s$HOME"]


def printed(*things: object) -> str:
    stream = io.StringIO()
    PlainConsole(file=stream, width=200, force_terminal=True).print(*things, soft_wrap=True)
    return stream.getvalue()


@pytest.mark.parametrize("name", NAMES)
def test_text_is_printed_as_it_is(name: str) -> None:
    assert printed(name) == f"{name}\n"
    table = Table(name)
    table.add_row(name)
    assert printed(table).count(name) == 2
    stream = io.StringIO()
    with progress_display(disable=False, stream=stream) as progress:
        progress.add_task(name)
        shown = io.StringIO()
        PlainConsole(file=shown, width=200).print(progress.get_renderable())
    assert name in shown.getvalue()


def test_a_long_name_is_broken_on_terminals_only() -> None:
    name, known = "/a folder/" + "long " * 40, "ends here"
    for terminal in (False, True):
        stream = io.StringIO()
        console = PlainConsole(file=stream, width=80, force_terminal=terminal)
        table = Table("name", "value")
        table.add_row(name, known)
        console.print(table)
        assert (f"{name.strip()} " in stream.getvalue()) is not terminal
        assert console.width == 80
        console.print("word " * 40)
        assert max(map(len, stream.getvalue().splitlines()[-3:])) <= 80


def test_control_characters_are_shown_and_do_nothing() -> None:
    text = "a\x1b[2J\x1b]0;title\x07\rb\x9b\x7f\udcff\tc\nd"
    assert literal(text) == "a\\x1b[2J\\x1b]0;title\\x07\\rb\\x9b\\x7f\\udcff\tc\nd"
    table = Table("x")
    table.add_row(text)
    for thing in (text, table):
        assert not {"\x07", "\r", "\x9b", "\x7f", "\udcff"} & set(printed(thing))
        assert "\x1b[2J" not in printed(thing)
    assert printed(Text("bold", style="bold")) == "\x1b[1mbold\x1b[0m\n"


@pytest.mark.parametrize("name", ["[bold]:smile:é", "-m[red]x [b]"])
def test_names_are_printed_in_full(compressed: Path, text_file: Path, name: str, tmp_path: Path) -> None:
    place = tmp_path / "names"
    folder, text = place / f"model {name}", place / f"text {name}.txt"
    shutil.copytree(compressed, folder)
    shutil.copy(text_file, text)
    options = ["--recipe", "svd-llm", "--calibration", text, "--samples", 4, "--length", 64]
    made = run("compress", tmp_path / "dense", "-o", place / f"out {name}", *options)
    assert made.exit_code == 0, made.output
    assert f"out {name}" in made.stdout
    shown = run("eval", folder, "--text", text, "--length", 64, "--windows", 2, "--prompt", "x")
    assert shown.exit_code == 0, shown.output
    assert f"text {name}.txt" in words(shown.stdout)
    assert f"model {name}: " in words(shown.stdout)
    assert name in words(run("bench", folder, "--prompt", 4, "--generate", 2, "--repeats", 1).stdout)
    assert run("inspect", folder).exit_code == 0
    assert f"{name}/nowhere" in run("inspect", folder / "nowhere").stderr
