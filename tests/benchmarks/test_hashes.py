"""The hashes of one run are those of the next, and what differs between two files of them is told."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import eckart

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def hashes(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("hashes")


def line(recipe: str, **outcome: Any) -> dict[str, Any]:
    return {"model": "tiny", "recipe": recipe, "keep": 0.6, "way": "memory", **outcome}


def write(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(found) + "\n" for found in lines))
    return path


def test_every_way_gives_the_same_bytes_twice(hashes: ModuleType, tmp_path: Path) -> None:
    hashes.make_model("gemma3", tmp_path / "model")
    cases = [hashes.shortened(label) for label in ("svd-llm", "aa-svd-layer+objective.residual_anchoring=1")]
    runs = []
    for number in range(2):
        place = tmp_path / f"{number}"
        place.mkdir()
        ways = hashes.WAYS if number == 0 else ("memory", "disk")
        runs.append(list(hashes.Bench("gemma3", tmp_path / "model", place).run(cases, ways)))
    assert [(found["way"], "files" in found) for found in runs[0]] == [
        (way, made) for way in hashes.WAYS for made in (True, False)
    ]
    assert runs[0][:4] == runs[1]
    assert {found.get("error") for found in runs[0][1::2]} == {"UnsupportedModelError", "failure"}
    assert all("adds its output to the residual stream" in found["message"] for found in runs[0][1::2])


def test_tensors_are_hashed_and_not_what_is_said_of_them(hashes: ModuleType, tmp_path: Path) -> None:
    path, tensors = tmp_path / "x.safetensors", {"a": torch.ones(2, 3), "b": torch.zeros(()).bfloat16()}

    def found(changes: dict[str, torch.Tensor], **metadata: str) -> str:
        save_file(tensors | changes, path, metadata)
        digest: str = hashes.hash_of_tensors(path)
        return digest

    first = found({})
    assert found({}, version="2") == first
    changes = [{"a": torch.ones(3, 2)}, {"a": torch.ones(2, 3).double()}, {"b": -tensors["b"]}, {"c": torch.ones(1)}]
    assert first not in {found(change) for change in changes}


def test_trainings_and_searches_are_shortened(hashes: ModuleType) -> None:
    cases = hashes.all_cases()
    assert len({(case.label, case.keep) for case in cases}) == len(cases)
    assert {case.recipe for case in cases} == set(eckart.RECIPES)
    assert hashes.shortened("svd-llm").overrides == ()
    assert set(hashes.shortened("dobi-svd").overrides) == {"allocation.epochs=2", "allocation.training_samples=2"}
    assert hashes.shortened("aa-svd").label == "aa-svd+refinement.epochs=2+refinement.batch=2"


def test_what_differs_is_told(hashes: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = write(
        tmp_path / "old.jsonl",
        [
            line("same", files={"w": "1"}),
            line("other bytes", files={"w": "1", "v": "1"}),
            line("gone", files={"w": "1"}),
            line("fails now", files={"w": "1"}),
            line("other words", error="EckartError", message="before"),
        ],
    )
    new = write(
        tmp_path / "new.jsonl",
        [
            line("same", files={"w": "1"}),
            line("other bytes", files={"w": "2", "v": "1"}),
            line("fails now", error="EckartError", message="why"),
            line("other words", error="EckartError", message="after"),
            line("more", files={"w": "1"}),
        ],
    )
    assert [(row[1], row[4]) for row in hashes.differences(old, new)] == [
        ("other bytes", "w"),
        ("gone", "only in the old file"),
        ("fails now", "made -> EckartError: why"),
        ("more", "only in the new file"),
    ]
    assert not hashes.compare(old, new)
    said = capsys.readouterr().out
    assert "| tiny | other bytes | 0.6 | memory | w |" in said
    assert "6 cases, of which 2 end with an error: 2 same, 4 not" in said
    assert hashes.compare(old, old)
    assert not hashes.compare(write(tmp_path / "none.jsonl", []), tmp_path / "none.jsonl")


def test_rows_are_hashed_by_what_was_measured(hashes: ModuleType) -> None:
    row = {
        "keep": 0.6,
        "kept": 0.59,
        "bytes": 10,
        "ranks": {"a": 3},
        "calibration": {"sha256": "x"},
        "texts": {"t": {"log_perplexity": 1.0, "error": 0.1}},
        "seconds": 1.0,
    }
    first = hashes.hash_of_row(row)
    assert hashes.hash_of_row(row | {"seconds": 2.0, "versions": {}}) == first
    changed: list[dict[str, object]] = [
        {"bytes": 11},
        {"ranks": {"a": 4}},
        {"texts": {"t": {"log_perplexity": 1.0000001, "error": 0.1}}},
    ]
    assert first not in {hashes.hash_of_row(row | change) for change in changed}
