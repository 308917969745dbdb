"""The table of both solvers, on matrices that take no time."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def solvers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("solvers")


@pytest.mark.parametrize("shape", [(40, 40), (30, 50), (50, 30)])
def test_weights_have_the_spectrum_that_is_said(solvers: ModuleType, shape: tuple[int, int]) -> None:
    weight, moment = solvers.problem(shape, 0.5, torch.device("cpu"))
    values = torch.linalg.eigvalsh(weight @ moment @ weight.T).flip(0)[: min(shape)]
    torch.testing.assert_close(values, torch.arange(1, min(shape) + 1, dtype=torch.float64) ** -1.0)


def test_each_shape_has_its_rows(
    solvers: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["solvers.py", "--shapes", "60x80", "80x60", "--decays", "1", "--limit", "0.5"])
    solvers.main()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[:3] for row in rows] == [[s, "1", rank] for s in ("60x80", "80x60") for rank in ("12", "30")]
    for row in rows:
        assert row[3].endswith(" s")
        if row[2] == "12":
            assert row[4].endswith(" s")
            assert 0 <= float(row[5].removesuffix("%")) < 1
        else:
            assert row[4:] == ["exact", ""]
