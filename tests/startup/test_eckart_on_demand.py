"""Programs that say nothing of this library load its models: through `eckart run`, and through the package autoload."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from tests.conftest import make_model

import eckart
from eckart.cli.run import with_startup
from eckart.startup import eckart_on_demand
from eckart.startup.eckart_on_demand import NAMES, Finder, OnDemand, change_tables

ROOT = Path(__file__).parent.parent.parent
AUTOLOAD = ROOT / "autoload"
# What a program may import first; each prints what is imported once it has, and which layers it gets.
FIRST = """
import json, sys
exec(sys.argv[2])
before = [name for name in ("transformers", "eckart") if name in sys.modules]
from transformers import AutoModelForCausalLM
try:
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
    found = type(model.model.layers[0].mlp.up_proj).__name__
except Exception as error:
    found = str(error)
print(json.dumps([before, found]))
"""


def program(environment: dict[str, str], *arguments: object) -> tuple[list[str], str]:
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FIRST, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
    )
    assert run.returncode == 0, run.stderr
    before, found = json.loads(run.stdout.splitlines()[-1])
    return before, found


def installed(place: Path) -> Path:
    """Lay the package autoload out as an installer does, and return the folder for the path."""
    project = tomllib.loads((AUTOLOAD / "pyproject.toml").read_text())["project"]
    place.mkdir()
    (place / "eckart_autoload.py").write_bytes((AUTOLOAD / "eckart_autoload.py").read_bytes())
    described = place / f"eckart_autoload-{project['version']}.dist-info"
    described.mkdir()
    (described / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    points = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
        for group, entries in project["entry-points"].items()
    ]
    (described / "entry_points.txt").write_text("\n".join(points))
    return place


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "small"
    model = make_model("llama")
    eckart.save(model, eckart.compress(model, "svd", 0.6), folder)
    return folder


def with_path(*folders: Path, **more: str) -> dict[str, str]:
    path = [*map(str, folders), str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path), **more}


@pytest.mark.parametrize(
    ("first", "imported"),
    [
        # PyTorch is imported while the module with the tables is.
        ("import transformers.quantizers.auto", ["transformers"]),
        ("import eckart", ["eckart"]),
    ],
)
def test_with_the_package_autoload(first: str, imported: list[str], small: Path, tmp_path: Path) -> None:
    environment = with_path(installed(tmp_path / "site"))
    assert program(environment, small, first) == (imported, "LowRankLinear")


def test_the_package_autoload_turned_off(small: Path, tmp_path: Path) -> None:
    environment = with_path(installed(tmp_path / "site"), TORCH_DEVICE_BACKEND_AUTOLOAD="0")
    before, found = program(environment, small, "import torch")
    assert before == []
    assert "this-model-needs-import-eckart" in found


def test_with_the_folder_of_a_start(small: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "sitecustomize.py").write_text("import sys\nsys.other_was_run = True\n")
    environment = with_startup(with_path(other))
    assert program(environment, small, "import torch; assert sys.other_was_run") == ([], "LowRankLinear")


def test_the_extra_names_the_package() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    described = tomllib.loads((AUTOLOAD / "pyproject.toml").read_text())["project"]
    assert extras["autoload"] == [f"{described['name']}>={described['version']}"]


def test_tables_ask_for_one_name_only(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(eckart_on_demand, "import_module", asked.append)
    monkeypatch.delitem(sys.modules, "eckart")
    table = OnDemand({"gptq": 1, "eckart": 2})
    assert "gptq" in table
    assert "other" not in table
    assert table["gptq"] == 1
    assert asked == []
    assert "eckart" in table
    assert table["eckart"] == 2
    assert asked == ["eckart", "eckart"]


def test_tables_are_changed_once_they_are_there() -> None:
    module = ModuleType("auto")
    assert not change_tables(None)
    setattr(module, NAMES[0], {"a": 1})
    assert not change_tables(module)  # half of an import
    setattr(module, NAMES[1], {"b": 2})
    assert change_tables(module)
    tables = [getattr(module, name) for name in NAMES]
    assert [type(table) for table in tables] == [OnDemand, OnDemand]
    assert change_tables(module)
    assert [getattr(module, name) for name in NAMES] == tables == [{"a": 1}, {"b": 2}]


def test_a_finder_leaves_other_modules_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    finder = Finder()
    monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
    monkeypatch.delitem(sys.modules, "transformers.quantizers.auto")
    assert finder.find_spec("json", None) is None
    assert finder in sys.meta_path
    spec = finder.find_spec("transformers.quantizers.auto", None)
    assert spec is not None
    assert type(spec.loader).__name__ == "Around"
    assert finder not in sys.meta_path


def test_installing_twice_is_installing_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.delitem(sys.modules, "transformers.quantizers.auto")
    for _ in range(2):
        eckart_on_demand.install()
    assert sum(isinstance(finder, Finder) for finder in sys.meta_path) == 1
