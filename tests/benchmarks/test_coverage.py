from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import typer
from benchmarks.coverage import KEY, RECIPES, is_known, key_of, main, run_apart, select
from coverage_case import RECIPES as MADE
from coverage_case import run_class
from harness import Rows
from tiny_models.classes import Entry, entries

# Some classes of all kinds that pass; the recipes take turns.
SAMPLE = (
    "causal/llama",
    "causal/gpt2",
    "causal/phi3",
    "image-text/llava",
    "image-text/idefics3",
    "seq2seq/t5",
    "speech/whisper",
    "masked/bert",
    "classification/gpt2",
    "image/vit",
    "audio/wav2vec2",
    "other/clip_text_model",
)
ALL = {entry.name: entry for entry in entries()}


@pytest.fixture
def _one_thread() -> Iterator[None]:
    # Matrices are so small that threads would wait for one another most of the time.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_one_thread")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SAMPLE)
def test_a_sample_of_all_kinds_passes(name: str) -> None:
    recipe = RECIPES[SAMPLE.index(name) % len(RECIPES)]
    [(told, outcome)] = run_class(ALL[name], [recipe])
    assert (told, outcome.outcome, outcome.detail) == (recipe, "pass", "")
    assert outcome.difference == 0
    assert outcome.disk_bytes == outcome.reported_bytes
    assert outcome.keep is not None
    assert 0.5 < outcome.keep <= 0.6


def test_there_are_some_of_all_kinds() -> None:
    assert {ALL[name].kind for name in SAMPLE} == {entry.kind for entry in ALL.values()}
    assert set(MADE) == set(RECIPES)


def test_a_class_that_cannot_be_built_has_one_row() -> None:
    [(recipe, outcome)] = run_class(Entry("causal", "llama", "NoSuchModel"))
    assert recipe == ""
    assert outcome.outcome == "not built"
    assert "NoSuchModel" in outcome.detail


def test_classes_are_chosen_by_kind_type_or_both() -> None:
    found = [Entry("causal", "gpt2", "A"), Entry("causal", "llama", "B"), Entry("classification", "gpt2", "C")]
    assert [entry.model_class for entry in select(found, [])] == ["A", "B", "C"]
    assert [entry.model_class for entry in select(found, ["gpt2"])] == ["A", "C"]
    assert [entry.model_class for entry in select(found, ["causal"])] == ["A", "B"]
    assert [entry.model_class for entry in select(found, ["classification/gpt2", "llama"])] == ["B", "C"]
    with pytest.raises(typer.BadParameter, match="no class is named gpt3"):
        select(found, ["gpt3", "gpt2"])


def test_a_process_that_takes_too_long_is_ended() -> None:
    rows = run_apart(ALL["causal/llama"], ["svd-llm", "zs-svd"], seconds=0)
    assert [row["outcome"] for row in rows] == ["crashed", "crashed"]
    assert [row["recipe"] for row in rows] == ["svd-llm", "zs-svd"]
    assert "took more than 0 s" in rows[0]["detail"]


def test_what_is_known_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, list[str]]] = []
    outcomes: dict[str, str] = {}

    def run(entry: Entry, recipes: list[str], seconds: float) -> list[dict[str, object]]:
        asked.append((entry.name, recipes))
        about = {"kind": entry.kind, "model_type": entry.model_type, "model_class": entry.model_class}
        about |= {"transformers": "9", "eckart": "1", "detail": ""}
        return [{**about, "recipe": name, "outcome": outcomes.get(name, "pass")} for name in recipes]

    monkeypatch.setattr("benchmarks.coverage.run_apart", run)
    monkeypatch.setattr("benchmarks.coverage.transformers.__version__", "9")
    output, page = tmp_path / "rows.jsonl", tmp_path / "page.md"
    names = ["causal/llama", "masked/bert"]
    main(output, only=["causal/llama"], recipe=["svd-llm"], jobs=1, seconds=1)
    main(output, only=names, recipe=["svd-llm", "zs-svd"], jobs=1, seconds=1, page=page)
    assert asked == [
        ("causal/llama", ["svd-llm"]),
        ("causal/llama", ["zs-svd"]),
        ("masked/bert", ["svd-llm", "zs-svd"]),
    ]
    assert len(output.read_text().splitlines()) == 4
    assert "1 pass: `llama`." in page.read_text()
    known = {key_of(row) for row in Rows(output, KEY).rows}
    assert is_known(known, ALL["masked/bert"], "zs-svd")
    assert not is_known(known, ALL["masked/bert"], "aa-svd")

    asked.clear()
    outcomes["aa-svd"] = "crashed"
    main(output, only=names, recipe=["svd-llm", "aa-svd"], jobs=1, seconds=1)
    with pytest.raises(typer.Exit):
        main(output, only=names, recipe=["svd-llm"], jobs=1, seconds=1, check=True)
    outcomes.clear()
    main(output, only=names, recipe=["svd-llm", "aa-svd"], jobs=1, seconds=1, again=["crashed"], check=True)
    assert asked == [("causal/llama", ["aa-svd"]), ("masked/bert", ["aa-svd"])] * 2
    with pytest.raises(typer.BadParameter, match="no outcome is named failed"):
        main(output, only=names, recipe=[], jobs=1, seconds=1, again=["failed"])
