"""Choices that others add: by a decorator in a process, and by the entry points of an installed package."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

import eckart
from eckart.checkpoint.identity import versions
from eckart.errors import CheckpointError, RecipeError
from eckart.methods.objectives import OBJECTIVES, InputAware, Weight
from eckart.methods.structure import STRUCTURES, TwoFactor

PLUG_IN = """
from typing import Literal
from eckart.methods.objectives import InputAware
from eckart.methods.structure import TwoFactor

class Renamed(TwoFactor):
    name: Literal["renamed"] = "renamed"
    extra: int = 3

class Other(InputAware):
    name: Literal["other"] = "other"
"""
ENTRY_POINTS = """
[eckart.structures]
renamed = eckart_plug_in:Renamed
broken = eckart_plug_in_that_is_not_there:Nothing
misnamed = eckart_plug_in:Renamed
wrong = eckart_plug_in:Other
two-factor = eckart_plug_in_that_is_not_there:Nothing
[eckart.objectives]
other = eckart_plug_in:Other
"""


def state_of(registry: object) -> dict[str, object]:
    return {name: dict(value) if isinstance(value, dict) else value for name, value in vars(registry).items()}


@pytest.fixture(autouse=True)
def forget() -> Iterator[Callable[[], None]]:
    """Gives what lets the tables be as they were, as in another process; in the end they are."""
    known = [(registry, state_of(registry)) for registry in (OBJECTIVES, STRUCTURES)]

    def forget_all() -> None:
        for registry, state in known:
            vars(registry).update({n: dict(v) if isinstance(v, dict) else v for n, v in state.items()})

    yield forget_all
    forget_all()


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with choices, as pip would lay it out."""
    record = tmp_path / "site" / "eckart_plug_in-1.2.dist-info"
    record.mkdir(parents=True)
    (record.parent / "eckart_plug_in.py").write_text(PLUG_IN)
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: eckart-plug-in\nVersion: 1.2\n")
    (record / "top_level.txt").write_text("eckart_plug_in\n")
    (record / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(record.parent)
    monkeypatch.delitem(sys.modules, "eckart_plug_in", raising=False)


def test_a_choice_that_was_added_is_found_by_name_and_keeps_its_fields() -> None:
    @OBJECTIVES.add
    class Doubled(InputAware):
        name: Literal["doubled"] = "doubled"  # type: ignore[assignment]
        times: int = 2

    recipe = eckart.load_recipe("svd-llm", ["objective=doubled", "objective.times=5"])
    assert recipe.objective == Doubled(times=5)
    assert eckart.Recipe.model_validate_json(recipe.model_dump_json()) == recipe
    assert "times: 5" in recipe.to_yaml()
    assert versions(recipe)[__name__.partition(".")[0]] == "not a package"
    with pytest.raises(RecipeError, match=r"no field 'objective.time'; did you mean 'objective.times'"):
        eckart.load_recipe(recipe, ["objective.time=1"])
    with pytest.raises(RecipeError, match=r"'objective.time'.* did you mean 'times'"):
        eckart.load_recipe(recipe, ["objective={name: doubled, time: 1}"])


def test_what_cannot_be_added() -> None:
    class Impostor(Weight):
        name: Literal["weight"] = "weight"

    with pytest.raises(RecipeError, match="'weight', as one of the objectives of eckart itself is"):
        OBJECTIVES.add(Impostor)
    with pytest.raises(RecipeError, match="expected a subclass of Objective"):
        OBJECTIVES.add(TwoFactor)  # type: ignore[arg-type]

    class Nameless(Weight):
        name: str = None  # type: ignore[assignment]

    with pytest.raises(RecipeError, match="has no name"):
        OBJECTIVES.add(Nameless)


@pytest.mark.usefixtures("installed")
def test_an_installed_package_is_imported_when_its_choice_is_named() -> None:
    assert "renamed" in STRUCTURES
    assert "renamed" in list(STRUCTURES)
    assert len(STRUCTURES) == len(list(STRUCTURES))
    assert "eckart_plug_in" not in sys.modules
    recipe = eckart.load_recipe("svd", ["structure=renamed", "objective=other"])
    assert (recipe.structure.name, recipe.objective.name) == ("renamed", "other")
    assert versions(recipe)["eckart-plug-in"] == "1.2"
    assert STRUCTURES["two-factor"] is TwoFactor  # a name of eckart's own cannot be taken


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken", "eckart_plug_in_that_is_not_there:Nothing of the package eckart-plug-in, which cannot be imported"),
        ("misnamed", "declared as 'misnamed', but calls itself 'renamed'"),
        ("wrong", "eckart_plug_in:Other .* expected a subclass of Structure"),
        ("renamd", r"Unknown structure 'renamd'.*did you mean 'renamed'"),
    ],
)
def test_mistakes_of_a_package_are_named(name: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        eckart.load_recipe("svd", [f"structure={name}"])


@pytest.mark.usefixtures("installed")
def test_a_checkpoint_needs_the_package_and_says_so(
    llama: PreTrainedModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    forget: Callable[[], None],
    tokens: torch.Tensor,
) -> None:
    report = eckart.compress(llama, "svd", 0.6, overrides=["structure=renamed", "structure.extra=7"])
    eckart.save(llama, report, tmp_path / "small")
    stored = json.loads((tmp_path / "small" / "config.json").read_text())["quantization_config"]
    assert stored["structure"] == {"name": "renamed", "extra": 7}
    with torch.no_grad():
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "small")(tokens).logits
        assert torch.equal(loaded, llama(tokens).logits)
    forget()
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place != str(tmp_path / "site")])
    with pytest.raises(CheckpointError, match=r"'renamed'; .*eckart-plug-in 1\.2, .*: a plug-in that is missing here"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "small")
