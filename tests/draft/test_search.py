from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import contents
from transformers import GenerationConfig, LlamaForCausalLM

from eckart.draft import make_draft
from eckart.draft.costs import StepCosts
from eckart.errors import EckartError, EckartWarning

OPTIONS: dict[str, Any] = {"samples": 4, "length": 24, "texts": 2, "prompt": 8, "tokens": 6, "proposals": 3}


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each candidate be faster than the one before, so that nothing depends on the machine."""
    costs = iter(StepCosts(step, dict.fromkeys(range(1, 5), 1.0)) for step in (0.9, 0.001, 0.8))
    monkeypatch.setattr("eckart.draft.search.time_steps", lambda *_: next(costs))


def test_the_best_draft_is_written_and_says_how_many_tokens_it_proposes(
    model_folder: Path, text_file: Path, tmp_path: Path, steps: None
) -> None:
    before = contents(model_folder)
    out, seen = tmp_path / "draft", []
    options = {**OPTIONS, "calibration": str(text_file), "text": str(text_file)}
    found = make_draft(
        model_folder, out, recipes=["int8"], sizes=[0.6, 0.55, 0.52], **options, on_step=lambda *step: seen.append(step)
    )
    assert [candidate.keep for candidate in found.candidates] == [0.6, 0.55, 0.52]
    assert found.chosen == found.candidates[1]
    assert found.chosen.speedup > 1
    assert (found.generation.texts, found.generation.same) == (2, 2)
    settings = GenerationConfig.from_pretrained(out)
    assert settings.num_assistant_tokens == found.chosen.proposals
    assert (settings.num_assistant_tokens_schedule, settings.assistant_confidence_threshold) == ("constant", 0)
    assert [done for _, done, _ in seen] == [0, 1, 2, 3, 4]
    assert contents(model_folder) == before
    model, draft = (LlamaForCausalLM.from_pretrained(folder).eval() for folder in (model_folder, out))
    ids = torch.ones(1, 8, dtype=torch.int64)
    alone, assisted = (
        model.generate(ids, max_new_tokens=8, do_sample=False, assistant_model=assistant) for assistant in (None, draft)
    )
    assert torch.equal(alone, assisted)


def test_a_draft_that_gains_nothing_is_written_with_a_warning(
    model_folder: Path, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eckart.draft.search.time_steps", lambda *_: StepCosts(9.0, dict.fromkeys(range(1, 5), 1.0)))
    options = {**OPTIONS, "calibration": str(text_file), "text": str(text_file)}
    with pytest.warns(EckartWarning, match=r"No draft is expected to make dense faster .* takes 900% of one"):
        make_draft(model_folder, tmp_path / "draft", recipes=["int8"], sizes=[0.6], **options)
    assert (tmp_path / "draft" / "config.json").exists()


def test_what_cannot_be_at_a_size_is_left_out(
    model_folder: Path, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eckart.draft.search.time_steps", lambda *_: StepCosts(0.01, dict.fromkeys(range(1, 5), 1.0)))
    options = {**OPTIONS, "calibration": str(text_file), "text": str(text_file)}
    with pytest.warns(EckartWarning, match=r"Left out: eckart-fast at 0.1: keep 0.1 allows"):
        found = make_draft(model_folder, tmp_path / "draft", recipes=["eckart-fast"], sizes=[0.6, 0.1], **options)
    assert [candidate.keep for candidate in found.candidates] == [0.6]
    with pytest.raises(EckartError, match=r"No draft could be made. eckart-fast at 0.1: keep 0.1 allows"):
        make_draft(model_folder, tmp_path / "other", recipes=["eckart-fast"], sizes=[0.1], **options)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipes": []}, "There is nothing to try"),
        ({"sizes": [1.5]}, "1.5"),
        ({"recipes": ["svd-lm"]}, "svd-lm"),
        ({"tokens": 1}, "tokens must be 2 or more; found 1"),
        ({"proposals": 0}, "proposals must be 1 or more; found 0"),
        ({"prompt": 100_000}, "too short"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    model_folder: Path, text_file: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    options = {**OPTIONS, "calibration": str(text_file), "text": str(text_file), **change}
    with pytest.raises(EckartError, match=message):
        make_draft(model_folder, tmp_path / "draft", **options)
    assert not (tmp_path / "draft").exists()


def test_an_existing_folder_is_kept(model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "draft").mkdir()
    (tmp_path / "draft" / "mine").write_text("x")
    with pytest.raises(EckartError):
        make_draft(model_folder, tmp_path / "draft")
    assert (tmp_path / "draft" / "mine").read_text() == "x"
