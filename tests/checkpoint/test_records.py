"""Records of a run, written and read again; damage is tested by way of the command, in tests/cli/test_damaged.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.report.helpers import report

from eckart.checkpoint.records import SPECTRA_NAME, TIMINGS_NAME, read_records, read_report, write_records
from eckart.compression.costs import Costs, Timings
from eckart.compression.result import REPORT_NAME
from eckart.errors import CheckpointError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_records(tmp_path, report())
    return tmp_path


def change(folder: Path, **values: object) -> None:
    path = folder / REPORT_NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_all_comes_back(folder: Path) -> None:
    found, expected = read_records(folder), report()
    assert found.model_dump() == expected.model_dump()
    assert found.costs == expected.costs
    assert found.spectra.keys() == expected.spectra.keys()
    assert all(torch.equal(found.spectra[path], expected.spectra[path]) for path in expected.spectra)


def test_what_differs_between_two_runs_is_in_one_file(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    costs = Costs(timings=Timings(), memory=None, resumed_behind=2)
    write_records(other, report().model_copy(update={"costs": costs}))
    for name in (REPORT_NAME, SPECTRA_NAME):
        assert (other / name).read_bytes() == (folder / name).read_bytes()
    assert read_records(other).costs == costs


def test_a_report_alone_needs_no_other_file(folder: Path) -> None:
    (folder / SPECTRA_NAME).unlink()
    (folder / TIMINGS_NAME).unlink()
    for found in (read_report(folder), read_records(folder)):
        assert found.layers == report().layers
        assert (found.spectra, found.costs) == ({}, Costs(timings=Timings(), memory=None))


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"There is no folder .*nowhere; expected one that `eckart compress`"):
        read_report(tmp_path / "nowhere")
    with pytest.raises(
        CheckpointError, match=rf"holds no {REPORT_NAME}; expected a folder that `eckart compress`"
    ) as caught:
        read_report(tmp_path)
    assert "compress again" not in str(caught.value)
    (tmp_path / "eckart_report.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"It has an eckart_report\.json, of an earlier version: compress again"):
        read_report(tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"version": 2}, "is of version 2, and this Eckart reads version 1"),
        ({"layers": []}, "without layers; there is nothing to show"),
        ({"requested_keep": 3}, r"report\.json cannot be read \(requested_keep: .*less than or equal to 1"),
    ],
)
def test_a_report_that_cannot_be(values: dict[str, object], message: str, folder: Path) -> None:
    change(folder, **values)
    with pytest.raises(CheckpointError, match=message):
        read_records(folder)


@pytest.mark.parametrize(
    "spectrum",
    [
        torch.ones(3, 4),
        torch.ones(2, 0),
        torch.ones(2, 4, 1),
        torch.ones(2, 4, dtype=torch.int64),
        torch.tensor([[1.0, 2.0], [3.0, torch.inf]]),
    ],
    ids=lambda tensor: f"{tuple(tensor.shape)} {tensor.dtype}",
)
def test_spectra_that_cannot_be(spectrum: torch.Tensor, folder: Path) -> None:
    spectra = load_file(folder / SPECTRA_NAME)
    name = max(spectra)
    save_file({**spectra, name: spectrum}, folder / SPECTRA_NAME)
    with pytest.raises(CheckpointError, match=rf"numbers of .* for {name}; expected two rows of finite ones"):
        read_records(folder)
