"""Kills of `--overwrite`: the older or the newer folder is whole, and the next command works. More of them by hand."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
KILLS = int(os.environ.get("ECKART_KILLS", "12"))


@pytest.mark.skipif(os.name != "posix", reason="forks")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of forking
def test_an_older_folder_outlives_every_kill(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    kills = importlib.import_module("kills")
    case = kills.Case(tmp_path, tokenizer)
    total = case.kill(1 << 30)
    assert total > 50
    assert case.out.is_dir()
    for number in kills.chosen(total, KILLS):
        assert case.kill(number) is None
        assert case.look(number) == []


def test_kills_are_where_names_change_and_everywhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    chosen = importlib.import_module("kills").chosen(137, 100)
    assert len(chosen) == len(set(chosen)) == 100
    assert chosen[-50:] == list(range(88, 138))
    assert chosen[0] < 60
