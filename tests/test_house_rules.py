"""Rules of the house that a machine can check."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "eckart"
FILES = sorted(SOURCE.rglob("*.py"))
ACCELERATORS = re.compile(r"\b(cuda|mps|xpu|hip|npu)\b")
ARCHITECTURES = re.compile(r"llama|qwen|gemma|mistral|phi3|gpt|opt\b|q_proj|gate_proj|self_attn", re.IGNORECASE)


def strings_and_names(path: Path) -> list[str]:
    """Return the identifiers and the strings of a file, without its docstrings."""
    tree = ast.parse(path.read_text())
    docstrings = {
        id(first.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, clean=False)
        for first in node.body[:1]
        if isinstance(first, ast.Expr)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            found.append(node.value)
        elif isinstance(node, ast.Attribute):
            found.append(node.attr)
        elif isinstance(node, ast.Name):
            found.append(node.id)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_devices_are_named_in_one_module_only(path: Path) -> None:
    if path.name != "device.py":
        assert not [text for text in strings_and_names(path) if ACCELERATORS.search(text)]


@pytest.mark.parametrize(
    "name",
    [
        "blocks",
        "statistics",
        "calls",
        "walk",
        "plan",
        "placement",
        "residual",
        "hidden_units",
        "lowrank",
        "moments",
        "api",
        "check/finite",
        "check/merged",
        "check/reach",
        "check/record",
        "check/run",
    ],
)
def test_the_engine_names_no_architecture(name: str) -> None:
    assert not [text for text in strings_and_names(SOURCE / f"{name}.py") if ARCHITECTURES.search(text)]


def test_files_stay_small() -> None:
    sizes = sorted(len(path.read_text().splitlines()) for path in FILES)
    assert sizes[-1] <= 400
    assert sizes[len(sizes) // 2] < 150
