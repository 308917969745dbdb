"""The pages import what packages say is public, and nothing else."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
from pathlib import Path
from types import ModuleType

import pytest

import eckart

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
PACKAGES = sorted(
    ".".join(path.relative_to(ROOT / "src").parent.parts) for path in (ROOT / "src" / "eckart").rglob("__init__.py")
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_import_what_is_public(page: Path) -> None:
    for block in BLOCK.findall(page.read_text(encoding="utf-8")):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "eckart":
                assert node.module in PACKAGES, f"{node.module} is a module; a page imports from packages"
                public = importlib.import_module(str(node.module)).__all__
                assert {alias.name for alias in node.names} <= set(public)
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "eckart":
                assert node.attr in eckart.__all__ or node.attr in ("__version__", "evaluate", "sweep"), node.attr


@pytest.mark.parametrize("name", PACKAGES)
def test_every_package_says_what_is_public_and_has_it(name: str) -> None:
    package = importlib.import_module(name)
    assert len(set(package.__all__)) == len(package.__all__)
    for public in package.__all__:
        assert getattr(package, public) is not None


def _import(name: str) -> None:
    """Import a module, unless it is for an engine that is not installed."""
    try:
        importlib.import_module("peft")  # imports the modules for it, in their order
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if str(error.name).startswith("eckart"):
            raise


@pytest.mark.parametrize("name", PACKAGES)
def test_no_public_name_is_that_of_a_module(name: str) -> None:
    """Of two things of one name, who asks gets the module as soon as somebody has imported that."""
    package = importlib.import_module(name)
    for module in pkgutil.iter_modules(package.__path__):
        if module.name != "sitecustomize":  # found by its path, and run when a process starts
            _import(f"{name}.{module.name}")
    assert [public for public in package.__all__ if isinstance(getattr(package, public), ModuleType)] == []


def test_types_are_shipped() -> None:
    assert (ROOT / "src" / "eckart" / "py.typed").exists()
