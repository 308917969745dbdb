"""Tests mirror the tree: each module with logic of its own has its file of tests, and each file of tests its module."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROOT = TESTS.parent
PACKAGE = ROOT / "src" / "eckart"
BENCHMARKS = ROOT / "benchmarks"

# Modules that are tested elsewhere, and why there.
ELSEWHERE: dict[str, str] = {
    "serve/vllm_placeholder.py": "test_vllm_linear.py: what vLLM's classes of models do with it",
    "serve/vllm_product.py": "test_vllm_linear.py: products that vLLM runs",
    "serve/vllm_stub.py": "test_vllm_plugin.py: what is registered in place of another",
}

# Files of a topic, which is one of several modules.
TOPICS = {
    "adapters/test_training.py": "trainers of other libraries on models with adapters",
    "checkpoint/test_format1.py": "folders of the first versions load for ever",
    "checkpoint/test_odd_checkpoints.py": "weight files of odd contents, through all that reads and writes them",
    "checkpoint/test_storage.py": "every structure in every precision, to the disk and back",
    "cli/test_allow_partial.py": "one option of several commands",
    "cli/test_changed_files.py": "files that change under several commands",
    "cli/test_damaged.py": "damaged records, as all that read them meet them",
    "cli/test_single_files.py": "all commands that write a single file",
    "cli/test_wrong_lines.py": "command lines with mistakes, of all commands",
    "compression/test_mixture.py": "mixtures of experts against two whole models and plain loops",
    "methods/allocation/test_plug_in.py": "allocators of another package, in a run and in a sweep",
    "methods/sensitivity/test_token_weights.py": "tokens that count by their gradients, from the sums to the folder",
    "report/test_browser.py": "the page in a browser, with its scripts",
    "run/check/test_architectures.py": "models of many classes, through the whole run",
    "run/test_experts.py": "mixtures of experts, through the whole run",
    "run/test_several_processes.py": "several processes, through the whole run",
    "run/test_outputs.py": "what a whole run does to the files around it",
    "serve/test_server.py": "vLLM's server, which is no module of ours",
    "test_accelerator.py": "what needs an accelerator",
    "test_house.py": "rules of the house",
    "test_import.py": "what an import brings in",
    "test_mirror.py": "this file",
    "test_real_model.py": "what needs a real model",
    "test_recipe_spelling.py": "older spellings of recipes",
}


def has_logic(path: Path) -> bool:
    """Return whether a module has a function or a method that does something."""

    def does_something(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
        return any(
            not isinstance(statement, ast.Pass | ast.Raise)
            and not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))
            for statement in function.body
        )

    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return any(map(does_something, functions))


def file_of(module: Path) -> Path:
    """Return the file of the tests of a module of the package: src/eckart/ROOM/NAME.py has tests/ROOM/test_NAME.py."""
    return TESTS / module.relative_to(PACKAGE).with_name(f"test_{module.name}")


def module_of(tests: Path) -> Path:
    """Return the module that a file of tests would be of."""
    place = tests.relative_to(TESTS).with_name(tests.name.removeprefix("test_"))
    return ROOT / place if place.parts[0] == BENCHMARKS.name else PACKAGE / place


MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.name != "__init__.py" and has_logic(path)]
ROOMS = {path.name for path in PACKAGE.iterdir() if path.is_dir()} | {BENCHMARKS.name}
FILES = [
    path
    for path in sorted(TESTS.rglob("test_*.py"))
    if len(path.relative_to(TESTS).parts) == 1 or path.relative_to(TESTS).parts[0] in ROOMS
]


def test_there_is_something_to_look_at() -> None:
    assert len(MODULES) > 100
    assert len(FILES) > 100


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_module_with_logic_has_its_tests(module: Path) -> None:
    if module.relative_to(PACKAGE).as_posix() not in ELSEWHERE:
        assert file_of(module).is_file(), f"Write {file_of(module).relative_to(ROOT)}."


@pytest.mark.parametrize("tests", FILES, ids=lambda path: path.relative_to(TESTS).as_posix())
def test_tests_are_of_a_module_or_of_a_topic_that_is_named(tests: Path) -> None:
    if tests.relative_to(TESTS).as_posix() not in TOPICS:
        assert module_of(tests).is_file(), f"There is no {module_of(tests).relative_to(ROOT)} that they are of."


def test_no_exception_is_out_of_date() -> None:
    assert [name for name in TOPICS if not (TESTS / name).is_file() or module_of(TESTS / name).is_file()] == []
    known = {module.relative_to(PACKAGE).as_posix(): file_of(module) for module in MODULES}
    assert [name for name in ELSEWHERE if name not in known or known[name].is_file()] == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("X = 1\nclass A:\n    x: int = 0\n", False),
        ('def f():\n    """Do."""\n    ...\n', False),
        ("class A:\n    def f(self):\n        raise NotImplementedError\n", False),
        ("def f():\n    return 1\n", True),
        ('class A:\n    def f(self):\n        """Do."""\n        self.x = 1\n', True),
    ],
)
def test_what_counts_as_logic(text: str, expected: bool, tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(text)
    assert has_logic(path) == expected
