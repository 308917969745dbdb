"""Commands show bars of their own, and none of the libraries that they are made with."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from tests.cli.helpers import run
from tests.conftest import byte_tokenizer, make_model
from tqdm.auto import tqdm

import eckart
from eckart.cli.libraries import quiet_libraries


def test_bars_are_hidden_and_come_back(capsys: pytest.CaptureFixture[str]) -> None:
    with quiet_libraries():
        assert list(tqdm(range(3), desc="Decompressing model")) == [0, 1, 2]
        with tqdm(total=2, disable=False) as bar:
            bar.update(2)
    assert capsys.readouterr() == ("", "")
    assert list(tqdm(range(3), desc="Decompressing model")) == [0, 1, 2]
    assert "Decompressing model" in capsys.readouterr().err


def test_tries_of_a_connection_are_not_told(caplog: pytest.LogCaptureFixture) -> None:
    hub = logging.getLogger("huggingface_hub.utils._http")
    with quiet_libraries():
        hub.warning("Retrying in 1s")
        hub.error("cannot go on")
    assert [record.message for record in caplog.records] == ["cannot go on"]
    hub.warning("heard again")
    assert caplog.records[-1].message == "heard again"


def test_bars_that_come_back_even_after_an_error() -> None:
    before = tqdm.__init__
    with pytest.raises(RuntimeError), quiet_libraries():
        raise RuntimeError
    assert tqdm.__init__ is before


@pytest.mark.parametrize("to", ["gguf", "dense"])
def test_a_folder_of_another_library_is_read_without_bars(
    to: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if to == "gguf":
        pytest.importorskip("gguf")
    model = make_model("llama")
    eckart.save(model, eckart.compress(model, "int8", 0.6), tmp_path / "small", tokenizer=byte_tokenizer())
    result = run("export", tmp_path / "small", "--to", to, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "%|" not in result.output + "".join(capfd.readouterr())
