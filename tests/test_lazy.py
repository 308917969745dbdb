"""Names that are imported when they are asked for."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from eckart.lazy import importer


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module that can be imported and was not."""
    name = "module_that_was_not_imported"
    (tmp_path / f"{name}.py").write_text("HERE = object()\nTHERE = 2\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, name, raising=False)
    return name


def test_a_module_is_imported_when_its_name_is_asked_for(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importer("package", {"mine": f"{module}:HERE", "other": f"{module}:THERE"})
    assert module not in sys.modules
    found = find("mine")
    assert found is sys.modules[module].HERE
    assert find("mine") is found
    assert find("other") == 2
    monkeypatch.delitem(sys.modules, module)


def test_other_names_are_missing_as_in_any_module(module: str) -> None:
    find = importer("package", {"mine": f"{module}:HERE"})
    with pytest.raises(AttributeError, match="module 'package' has no attribute 'yours'"):
        find("yours")
    assert module not in sys.modules


def test_a_place_that_is_not_there_is_a_fault(module: str) -> None:
    find = importer("package", {"mine": f"{module}:NOWHERE", "lost": "nowhere.at.all:X"})
    with pytest.raises(AttributeError, match="NOWHERE"):
        find("mine")
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        find("lost")
