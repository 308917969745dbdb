from __future__ import annotations

import json
import re
from typing import Any

import pytest
from tests.report.helpers import NASTY, dense_run, folder_run, many, report

from eckart.methods.recipes.published import RECIPES
from eckart.report import Gathered, build_page
from eckart.report.runs import Run, Sample

pytest.importorskip("plotly")


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found.group(1))  # type: ignore[no-any-return]


def body_of(page: str) -> str:
    """Return what is on the page without its scripts."""
    return page[page.index("<body>") : page.index("<script>")]


@pytest.fixture(scope="module")
def page() -> str:
    runs = [dense_run(), folder_run("a", 0.5), folder_run("b", 0.25), folder_run("c", 0.5, RECIPES["saes-svd"])]
    return build_page(Gathered(runs), "A title")


def test_a_whole_page(page: str) -> None:
    data = data_of(page)
    assert data["recipes"] == ["svd-llm", "saes-svd"]
    expected = {"quality-bytes", "quality-speed", "depth-first", "depth-last", "depth-block", "rank-map", "spectra"}
    expected |= {"refinement-blocks", "refinement-epochs", "distillation-epochs", "times", "memory"}
    assert expected == data["figures"].keys()
    assert data["tables"].keys() == {"choices", "runs", "layers"}
    for figure in data["figures"].values():
        for variant in figure["variants"].values():
            for trace in variant["traces"]:
                height = "z" if trace["type"] == "heatmap" else "x"
                assert len(trace[height]) == len(trace["y"]), trace
    # On the front: the best of each size. c is as large as a and no better.
    assert [row[0] for row in data["tables"]["choices"]["variants"][0]] == ["b", "a", "dense"]
    assert "no model comes within 10 % of the dense perplexity (18.00); the nearest is a with 40.00." in page


def test_every_choice_has_its_variant(page: str) -> None:
    figures = data_of(page)["figures"]
    for group in re.findall(r'<div class="group">(.*?)</figure>', page, re.DOTALL):
        options = [re.findall("<option", select) for select in re.findall("<select>(.*?)</select>", group, re.DOTALL)]
        wanted = [""]
        for number, found in enumerate(options):
            wanted = [f"{place}{'.' * bool(number)}{index}" for place in wanted for index in range(len(found))]
        (identity,) = re.findall('data-figure="([^"]*)"', group)
        assert set(wanted) == figures[identity]["variants"].keys(), identity


def test_nothing_is_loaded(page: str) -> None:
    assert "default-src 'none'" in page
    ours = page.replace(page[page.index("<script>") : page.index('<script type="application/json"')], "")
    assert not re.search(r"https?://", ours)
    assert not re.search(r"<(script|link|img|iframe)[^>]* (src|href)=(?!.data:)", ours)


def test_text_is_shown_and_not_run() -> None:
    recipe = RECIPES["svd-llm"].model_copy(update={"name": NASTY})
    run = folder_run(NASTY, 0.5, recipe)
    run.model, run.samples = NASTY, [Sample(NASTY, NASTY)]
    run.texts = {NASTY: next(iter(run.texts.values()))}
    page = build_page(Gathered([run], [NASTY]), NASTY)
    assert "<img" not in page.replace(page[page.index("<script>") : page.index('<script type="application/json"')], "")
    assert page.count("</script>") == 3
    assert "&lt;img" in body_of(page)
    data = data_of(page)
    assert data["recipes"] == [NASTY]
    trace = data["figures"]["quality-bytes"]["variants"]["0.0"]["traces"][-1]
    assert "<img" not in trace["text"][0]
    assert "&lt;b&gt;bold&lt;/b&gt;" in trace["text"][0]


def test_one_run_of_which_little_is_known() -> None:
    bare = Run("x", "svd", "m", 0.5)
    page = build_page(Gathered([bare]), "t")
    data = data_of(page)
    assert data["figures"] == {}
    assert data["tables"]["runs"]["variants"] == [[["x", "svd", 0.5]]]
    assert "<code>eckart eval RUN --baseline DENSE --text FILE --json &gt; run.json</code>" in page
    assert 'id="spectra"' not in page


def test_without_perplexities_the_last_block_tells() -> None:
    run = folder_run()
    run.texts, run.speed = {}, None
    page = build_page(Gathered([run]), "t")
    traces = data_of(page)["figures"]["quality-bytes"]["variants"]["0.0"]["traces"]
    assert traces[0]["y"] == [pytest.approx(0.3)]
    assert "No perplexity is known yet" in page


def test_distillations_by_epoch(page: str) -> None:
    (variant,) = data_of(page)["figures"]["distillation-epochs"]["variants"].values()
    assert [trace["y"] for trace in variant["traces"]] == [[0.9, 0.5, 0.4]] * 3
    assert [trace["series"] for trace in variant["traces"]] == [0, 0, 1]
    assert len({trace["line"]["dash"] for trace in variant["traces"][:2]}) == 2  # two runs of one recipe


def test_runs_without_a_distillation_have_no_such_section() -> None:
    run = folder_run()
    assert run.report is not None
    run.report = run.report.model_copy(update={"distillation": None})
    assert "distillation-epochs" not in data_of(build_page(Gathered([run]), "t"))["figures"]


def test_missing_values_are_gaps_and_no_numbers() -> None:
    run = folder_run()
    data = report().model_dump()
    data["blocks"][1]["output"] = None
    data["refinements"][0] |= {"before": None, "after": None, "epochs": []}
    run.report = type(report()).model_validate(data)
    page = build_page(Gathered([run]), "t")
    figures = data_of(page)["figures"]
    assert figures["depth-block"]["variants"]["0.0"]["traces"][0]["y"][1] is None
    assert figures["depth-last"]["variants"]["0.0"]["traces"][0]["y"] == [0.3, None, 0.3, 0.3]
    assert "NaN" not in body_of(page)


def test_two_hundred_runs_stay_small() -> None:
    page = build_page(many(200), "t")
    data = data_of(page)
    assert len(data["tables"]["runs"]["variants"][0]) == 200
    assert len(json.dumps(data)) < 3_000_000
    assert len(data["recipes"]) > 10


def test_models_are_not_compared_with_each_other() -> None:
    other = folder_run("other", 0.25)
    other.model = "b/model"
    page = build_page(Gathered([folder_run("one"), other]), "t")
    traces = data_of(page)["figures"]["quality-bytes"]["variants"]["0.0"]["traces"]
    assert [len(trace["x"]) for trace in traces] == [1]
    assert '<option value="1">b/model: perplexity, wiki, 8 × 64 tokens</option>' in page
