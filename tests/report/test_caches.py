"""Quality against the bytes of the key-value cache."""

from __future__ import annotations

from pathlib import Path

from tests.report.helpers import dense_run, folder_run, perplexity

from eckart.report.caches import cache_label, quality_against_cache
from eckart.report.measured import Evaluation, MeasuredText, join


def measured(cache: str, size: float, value: float, text: str = "a.txt") -> MeasuredText:
    found = perplexity(value).model_copy(update={"cache": cache, "piece": 16, "cache_token_bytes": size})
    return MeasuredText(text=text, **found.model_dump())


def test_each_cache_is_a_mark_of_its_run(tmp_path: Path) -> None:
    run, dense = folder_run(), dense_run()
    whole = dict(run.texts)
    run.folder = tmp_path
    rows = [measured("latent:8", 50, 12), measured("latent:16", 100, 11)]
    assert join([run, dense], Evaluation(model=str(tmp_path), texts=rows))
    assert run.texts == whole  # of windows without a cache
    dense.caches.append((run.caches[0][0], perplexity(10).model_copy(update={"cache_token_bytes": 400.0})))
    figure = quality_against_cache([run, dense], {run.recipe: 3})
    assert figure is not None
    assert [select.options for select in figure.selects] == [[run.caches[0][0]]]
    ours, theirs = figure.variants["0"]["traces"]
    assert (ours["x"], ours["y"], ours["series"]) == ([50, 100], [12, 11], 3)
    assert "cache latent:8" in ours["text"][0]
    assert (theirs["x"], theirs["ink"]) == ([400], True)


def test_no_cache_no_figure() -> None:
    assert quality_against_cache([folder_run(), dense_run()], {}) is None


def test_pieces_are_told_apart() -> None:
    row = measured("dense", 1, 2)
    assert cache_label(row.text, row) == "a.txt, 8 × 64 tokens, in pieces of 16"
