"""Whatever is wrong with a command line, it gets a message and exit code 2, and nothing is touched."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from tests.cli.helpers import run, words
from tests.cli.wrong_lines import LINES, set_up

State = dict[str, tuple[int, int]]


def state(place: Path) -> State:
    """Return the size and the time of the last change of all there is."""
    return {
        path.relative_to(place).as_posix(): (path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in place.rglob("*")
    }


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("workplace")
    set_up(place)
    return place


@pytest.fixture
def here(workplace: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import lm_eval.tasks

    whole = lm_eval.tasks.TaskManager  # spare the seconds in which it reads its own definitions
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", lambda **given: whole(**{**given, "include_defaults": False}))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.chdir(workplace)
    return workplace


def test_they_are_two_hundred_and_more() -> None:
    assert len(set(LINES)) == len(LINES) > 300


@pytest.mark.parametrize("line", LINES)
def test_a_wrong_line(line: str, here: Path) -> None:
    before = state(here)
    result = run(*shlex.split(line))
    assert result.exit_code == 2, (result.output, result.exception)
    assert len(words(result.stderr)) > 20
    assert "Traceback" not in result.output
    assert state(here) == before
