from __future__ import annotations

import copy
import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

import eckart
from eckart.checkpoint.identity import differences, identity_of_run
from eckart.data.calibration import Calibration

CPU = torch.device("cpu")


def test_it_is_plain_data_with_hashes_of_all_that_matters(llama: PreTrainedModel, tokens: torch.Tensor) -> None:
    files = {"w.safetensors": hashlib.sha256(b"abc").hexdigest()}
    recipe = eckart.RECIPES["aa-svd"]
    identity = identity_of_run(recipe, 0.6, Calibration(tokens, "text", 3), llama, files, CPU)
    assert eckart.Recipe.model_validate(identity["recipe"]) == recipe
    assert identity["model"]["files"] == files
    assert identity["calibration"]["seed"] == 3
    assert identity["compute"] == "float32 on cpu"
    assert set(identity["versions"]) == {"python", "eckart", "torch", "transformers"}
    again = identity_of_run(recipe, 0.6, Calibration(tokens, "text", 3), llama, files, CPU)
    assert differences(identity, again) == []
    llama.config.hidden_act = "gelu"
    other = identity_of_run(recipe, 0.6, Calibration(tokens, "text", 3), llama, files, CPU)
    assert [line.split()[0] for line in differences(identity, other)] == ["model.config"]


@pytest.mark.parametrize(
    ("path", "value"), [(("a", "b"), 2), (("a", "c"), None), (("d",), [1, 2]), (("e",), "new")], ids=str
)
def test_differences_are_named_with_both_values(path: tuple[str, ...], value: object) -> None:
    before: dict[str, Any] = {"a": {"b": 1, "c": {"x": 1}}, "d": [1], "f": 0.5}
    now = copy.deepcopy(before)
    place: dict[str, Any] = now
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    (line,) = differences(before, now)
    assert line.startswith(".".join(path) + " was ")
    assert line.endswith(f"is {value!r}")


def test_how_the_path_is_spelled_does_not_matter(
    model_folder: Path, tokens: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model_folder.parent)
    recipe = eckart.RECIPES["svd"]
    first, *others = (
        identity_of_run(recipe, 0.6, None, eckart.load_model(path), {}, CPU)
        for path in (model_folder, f"./{model_folder.name}", f"{model_folder.name}/")
    )
    assert [differences(first, other) for other in others] == [[], []]
