from __future__ import annotations

from pathlib import Path

import pytest

from eckart.errors import EckartError, EckartWarning
from eckart.evaluate.definitions import check_folder, check_names

KNOWN = ["arc_easy", "arc_challenge", "piqa"]


def test_known_names_pass(tmp_path: Path) -> None:
    check_names(["piqa", "arc_easy"], KNOWN, None)
    (tmp_path / "fine.yaml").write_text("doc_to_text: !function local.load\n")
    check_names(["piqa"], KNOWN, tmp_path)


def test_an_unknown_name_gets_a_guess() -> None:
    with pytest.raises(EckartError, match=r"No task is called 'arc_eazy'; did you mean 'arc_easy'.*--task-path takes"):
        check_names(["piqa", "arc_eazy"], KNOWN, None)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "mine.yaml").write_text("task: [mine\nmetric: {")
    with pytest.raises(EckartError, match=r"No task is called 'mine'.*mine\.yaml cannot be read: .*line 2"):
        check_names(["mine"], KNOWN, tmp_path)
    with pytest.warns(EckartWarning, match=r"Skipped a task definition: .*mine\.yaml"):
        check_names(["piqa"], KNOWN, tmp_path)


def test_folders(tmp_path: Path) -> None:
    with pytest.raises(EckartError, match="There is no folder"):
        check_folder(tmp_path / "nowhere")
    with pytest.raises(EckartError, match="has no task definitions"):
        check_folder(tmp_path)
    (tmp_path / "a.yaml").write_text("task: a")
    check_folder(tmp_path)
