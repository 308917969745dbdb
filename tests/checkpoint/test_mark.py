"""The mark: what of a folder is Eckart's, and that nothing else is ever deleted."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from tests.conftest import contents

from eckart.checkpoint.mark import (
    LIST_NAME,
    VARIES,
    changed_files,
    delete_known,
    files_in,
    known_files,
    read_small,
    write_list,
)
from eckart.compression.result import REPORT_NAME

OURS = {"config.json", "eckart-1.safetensors", REPORT_NAME, VARIES, "code/model.py"}


def fill(folder: Path, names: set[str]) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


@pytest.fixture
def marked(tmp_path: Path) -> Path:
    folder = fill(tmp_path / "out", OURS)
    write_list(folder)
    return folder


def test_what_is_there_when_it_is_marked_is_known_and_nothing_that_comes_later(marked: Path) -> None:
    assert known_files(marked) == {*OURS, LIST_NAME}
    fill(marked, {"thesis.txt", "code/mine.py"})
    (marked / "code" / "model.py").unlink()
    assert known_files(marked) == {*OURS, LIST_NAME} - {"code/model.py"}


def test_the_list_has_the_hashes_but_of_what_differs_between_runs(marked: Path) -> None:
    listed = json.loads((marked / LIST_NAME).read_text())["files"]
    hashes = contents(marked)
    assert listed == {name: "" if name == VARIES else hashes.get(name) for name in OURS}


def test_what_was_changed_or_is_gone_is_named(marked: Path) -> None:
    assert changed_files(marked) == []
    (marked / VARIES).write_text("other times")
    (marked / "config.json").write_text("mine")
    (marked / REPORT_NAME).unlink()
    (marked / REPORT_NAME).mkdir()
    assert changed_files(marked) == ["config.json", REPORT_NAME]
    (marked / LIST_NAME).unlink()
    assert changed_files(marked) == []


@given(
    ours=st.sets(st.sampled_from(["a", "b", "d/a", "d/e/b", "f/c"])),
    theirs=st.sets(st.sampled_from(["x", "d/x", "d/e/x", "g/h/x"])),
)
def test_deleting_takes_exactly_what_is_known(
    ours: set[str], theirs: set[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("mark") / "out"
    folder.mkdir()
    fill(folder, ours)
    write_list(folder)
    fill(folder, theirs)
    delete_known(folder)
    if theirs:
        assert files_in(folder) == {*theirs, LIST_NAME}
    else:
        assert not folder.exists()


@pytest.mark.parametrize("deleted", range(1, len(OURS) + 2))
def test_deleting_that_is_stopped_can_be_done_again(
    deleted: int, marked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink = os.unlink
    done: list[Path] = []

    def stopping(path: Path) -> None:
        if len(done) == deleted:
            raise KeyboardInterrupt
        done.append(path)
        unlink(path)

    with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
        patch.setattr(os, "unlink", stopping)
        delete_known(marked)
    assert len(done) == deleted
    if marked.exists():
        delete_known(marked)
    assert not marked.exists()


def test_a_folder_of_before_there_were_marks_is_known_by_its_config(tmp_path: Path) -> None:
    unmarked = {"config.json", "eckart-1.safetensors", REPORT_NAME, "tokenizer.json"}
    folder = fill(tmp_path / "out", {*unmarked, "thesis.txt", "sub/config.json", "additional_chat_templates/a.jinja"})
    for config in ("no JSON", "{}", json.dumps({"quantization_config": {"quant_method": "gptq"}})):
        (folder / "config.json").write_text(config)
        assert known_files(folder) is None
    (folder / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "eckart"}}))
    assert known_files(folder) == {*unmarked, "additional_chat_templates/a.jinja"}
    delete_known(folder)
    # The list is what the rest is known by, should this have been stopped half way.
    assert files_in(folder) == {"thesis.txt", "sub/config.json", LIST_NAME}


@pytest.mark.skipif(os.name != "posix", reason="makes links and pipes")
def test_links_are_files_and_are_not_followed(marked: Path, tmp_path: Path) -> None:
    mine = fill(tmp_path / "mine", {"thesis.txt"})
    (marked / "link").symlink_to(mine)
    (marked / "dangling").symlink_to("nowhere")
    assert files_in(marked) == {*OURS, LIST_NAME, "link", "dangling"}
    write_list(marked)
    delete_known(marked)
    # Links were there, but what Eckart writes are files.
    assert files_in(marked) == {"link", "dangling", LIST_NAME}
    assert (mine / "thesis.txt").exists()


class Small(BaseModel):
    number: int


@pytest.mark.parametrize("text", ["", "[]", '{"number": "x"}', "{", '{"number": 1}' + " " * 10_000_001])
def test_what_is_no_small_file_of_a_kind_is_none(text: str, tmp_path: Path) -> None:
    path = tmp_path / "small.json"
    path.write_text(text)
    assert read_small(path, Small) is None
    path.write_text('{"number": 3}')
    assert read_small(path, Small) == Small(number=3)
    assert read_small(tmp_path, Small) is None
    assert read_small(tmp_path / "nowhere", Small) is None
