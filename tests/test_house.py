"""Rules of the house that a machine can check. They walk the tree: a new file falls under them by being there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "eckart"
FILES = sorted(SOURCE.rglob("*.py"))
ACCELERATORS = re.compile(r"\b(cuda|mps|xpu|hip|npu)\b")
ARCHITECTURES = re.compile(r"llama|qwen|gemma|mistral|phi3|gpt|opt\b|q_proj|gate_proj|self_attn", re.IGNORECASE)
# From the lowest floor up. Rooms of one floor do not import each other; the package itself stands on all of them.
FLOORS = (
    ("errors", "device", "lazy", "startup", "after_import"),
    ("files", "kinds", "maths", "processes"),
    ("data",),
    ("layers",),
    ("blocks", "cache"),
    ("methods", "evaluate"),
    ("compression",),
    ("checkpoint",),
    ("adapters", "run", "runtimes", "serve"),
    ("sweep",),
    ("draft", "report"),
    ("cli",),
    ("__main__",),
)
LEVELS = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
TOGETHER = {("device", "errors")}  # of one floor
ENGINE = ("maths", "layers", "blocks", "methods", "compression", "run")
# Names of published methods and tools, not of architectures.
NOT_ARCHITECTURES = re.compile(r"gptq|modegpt", re.IGNORECASE)


def name_of(path: Path) -> str:
    return str(path.relative_to(SOURCE))


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def strings_and_names(path: Path) -> list[str]:
    """Return the identifiers and the strings of a file, without its docstrings."""
    tree = ast.parse(path.read_text())
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and ast.get_docstring(node, clean=False)
        and isinstance(node.body[0], ast.Expr)
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


def imports_of(path: Path) -> Iterator[str]:
    """Yield the modules of this package that a file imports while it runs, inside functions too."""
    tree = ast.parse(path.read_text())
    for_types = {
        id(inside)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inside in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "eckart":
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "eckart")


def test_every_room_is_known() -> None:
    assert {room_of(path) for path in FILES} - {"__init__"} == set(LEVELS)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_room_imports_a_higher_one(path: Path) -> None:
    own = room_of(path)
    if own == "__init__":
        return
    for module in imports_of(path):
        parts = module.split(".")
        assert len(parts) > 2 or parts[1] in LEVELS, f"{module} is taken from the package itself"
        room = parts[1]
        if room != own and (own, room) not in TOGETHER:
            assert LEVELS[room] < LEVELS[own], f"{own} imports {module}, which is not below it"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_devices_are_named_in_one_module_only(path: Path) -> None:
    if path != SOURCE / "device.py":
        assert not [text for text in strings_and_names(path) if ACCELERATORS.search(text)]


@pytest.mark.parametrize("path", [path for path in FILES if room_of(path) in ENGINE], ids=name_of)
def test_the_engine_names_no_architecture(path: Path) -> None:
    words = [NOT_ARCHITECTURES.sub("", text) for text in strings_and_names(path)]
    assert not [text for text in words if ARCHITECTURES.search(text)]


def test_files_stay_small() -> None:
    sizes = sorted(len(path.read_text().splitlines()) for path in FILES)
    assert sizes[-1] <= 400
    assert sizes[len(sizes) // 2] < 150


def test_choices_are_asked_and_not_told_apart() -> None:
    """Outside of the rooms of choices, hardly anybody asks of which class a choice is."""
    classes = {
        node.name
        for path in (SOURCE / "methods").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and any(_name(base) in CHOICES for base in node.bases)
    } | CHOICES
    found = [
        f"{name_of(path)}:{node.lineno}"
        for path in FILES
        if path.relative_to(SOURCE).parts[:1] != ("methods",) or len(path.relative_to(SOURCE).parts) == 2
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and _name(node.func) == "isinstance" and _names(node.args[1]) & classes
    ]
    assert len(found) < 10, found


CHOICES = {
    "Choice",
    "Objective",
    "DataAwareObjective",
    "Allocation",
    "Structure",
    "Precision",
    "LowBit",
    "Refinement",
    "TrainingConfig",
    "Sharing",
}


def _name(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else ""


def _names(node: ast.AST) -> set[str]:
    return {inside.id for inside in ast.walk(node) if isinstance(inside, ast.Name)}
