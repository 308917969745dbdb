"""What is to be done after an import is done once, in whatever order things are imported."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from eckart.after_import import after_import

NAME = "a_package_of_this_test"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of a package that can be imported."""
    (tmp_path / NAME).mkdir()
    (tmp_path / NAME / "part.py").write_text("")
    (tmp_path / NAME / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    finders = list(sys.meta_path)
    yield tmp_path / NAME / "__init__.py"
    sys.meta_path[:] = finders
    for name in [name for name in sys.modules if name.split(".")[0] == NAME]:
        del sys.modules[name]


def test_a_package_that_is_imported_later(package: Path) -> None:
    done: list[bool] = []
    after_import(NAME, lambda: done.append(NAME in sys.modules))
    import json.tool  # noqa: F401

    assert importlib.util.find_spec(NAME) is not None  # to ask is not to import
    assert done == []
    module = importlib.import_module(f"{NAME}.part")
    assert done == [True]
    # Nobody sees that there was a loader in between.
    whole = sys.modules[NAME]
    assert type(whole.__loader__) is type(module.__loader__)
    assert whole.__spec__ is not None
    assert whole.__spec__.loader is whole.__loader__
    importlib.reload(whole)
    assert done == [True]


def test_a_package_that_was_imported_before(package: Path) -> None:
    importlib.import_module(NAME)
    done: list[bool] = []
    after_import(NAME, lambda: done.append(True))
    assert done == [True]


def test_several_wait_for_one_package(package: Path) -> None:
    done: list[int] = []
    for number in range(3):
        after_import(NAME, partial(done.append, number))
    assert importlib.util.find_spec(NAME) is not None
    importlib.import_module(NAME)
    assert sorted(done) == [0, 1, 2]


def test_a_package_whose_import_is_under_way(package: Path) -> None:
    package.write_text(
        "from eckart.after_import import after_import\ndone = []\n"
        f"after_import({NAME!r}, lambda: done.append(value))\nfrom {NAME} import part\nvalue = 1\n"
    )
    whole = importlib.import_module(NAME)
    assert whole.done == []
    importlib.util.find_spec("one_more_that_is_nowhere")
    assert whole.done == [1]


def test_a_package_that_fails_first(package: Path) -> None:
    package.write_text("raise ImportError('not yet')")
    done: list[bool] = []
    after_import(NAME, lambda: done.append(True))
    with pytest.raises(ImportError, match="not yet"):
        importlib.import_module(NAME)
    assert done == []
    package.write_text("whole = True")
    importlib.invalidate_caches()
    importlib.import_module(NAME)
    assert done == [True]


def test_a_package_that_is_nowhere() -> None:
    finders = list(sys.meta_path)
    try:
        after_import("a_package_that_is_nowhere", lambda: pytest.fail("there is none"))
        assert importlib.util.find_spec("a_package_that_is_nowhere") is None
    finally:
        sys.meta_path[:] = finders
