from __future__ import annotations

from pathlib import Path

import pytest

import eckart
from eckart.errors import EckartError
from eckart.methods.allocation import LayerStatistics, Needs
from eckart.methods.recipes.published import RECIPES
from eckart.methods.sensitivity.request import Labels, merge
from eckart.sweep.case import Way, cases_of, recipe_of, request_for, split_label, way_of

LINEARS = (LayerStatistics("a", (16, 16), 0, "a"), LayerStatistics("b", (24, 16), 1, "b"))


def merged_requests(*labels: str):
    found = (request_for(recipe_of(label), [0.6], LINEARS) for label in labels)
    return merge(request for request in found if request is not None)


def test_recipes_that_look_at_no_data_are_there_once_for_all_samples():
    cases = cases_of(["svd", "svd-llm"], [0.9, 0.8], [4, 16])
    assert [(case.label, case.keep, case.samples) for case in cases] == [
        ("dense", 1.0, None),
        ("svd", 0.9, None),
        ("svd", 0.8, None),
        ("svd-llm", 0.9, 4),
        ("svd-llm", 0.8, 4),
        ("svd-llm", 0.9, 16),
        ("svd-llm", 0.8, 16),
    ]
    assert str(cases[-1]) == "svd-llm at 0.8, 16 samples"


def test_recipes_that_were_changed_in_python_go_by_their_names():
    recipe = eckart.load_recipe("svd", ["allocation.multiple=4"])
    assert cases_of([recipe], [0.5], [1])[1].label == "svd (allocation.multiple=4)"


@pytest.mark.parametrize(
    ("recipes", "keep", "samples", "message"),
    [
        ([], [0.5], [1], "at least one recipe"),
        (["svd"], [], [1], "at least one size to keep"),
        (["svd", "svd"], [0.5], [1], "The recipe svd is asked for twice"),
        (["svd"], [0.5, 0.50], [1], "The size to keep 0.5 is asked for twice"),
        (["svd"], [0.5], [0], "at least 1 sample, found 0"),
        (["svd"], [1.5], [1], "found 1.5"),
        (["svdllm"], [0.5], [1], "did you mean 'svd-llm'"),
        (["svd+objectiv=anchored"], [0.5], [1], "did you mean 'objective'"),
        (["dense"], [0.5], [1], "'dense' is no recipe"),
    ],
)
def test_what_cannot_be_is_refused(recipes, keep, samples, message):
    with pytest.raises(EckartError, match=message.replace("(", r"\(")):
        cases_of(recipes, keep, samples)


def test_labels(tmp_path: Path):
    assert split_label("aa-svd+refinement.learning_rate=1e+3+structure=pivoted") == (
        "aa-svd",
        ["refinement.learning_rate=1e+3", "structure=pivoted"],
    )
    file = tmp_path / "my+own.yaml"
    file.write_text(RECIPES["svd-llm"].to_yaml())
    assert recipe_of(f"{file}+objective.shrinkage=0.5").objective.model_dump()["shrinkage"] == 0.5


@pytest.mark.parametrize(
    ("label", "way"),
    [
        ("svd", Way.TRUNCATED),
        ("io-svd+structure=pivoted", Way.TRUNCATED),
        ("zs-svd+sharing=shared", Way.TRUNCATED),
        ("aa-svd", Way.WALKED),
        ("dobi-shift", Way.WALKED),
        ("saes-svd", Way.WALKED),
        ("prehab", Way.WALKED),
        ("dobi-svd", Way.WALKED),
        ("svd-llm+solver=randomized", Way.WALKED),
        ("zs-svd-staged", Way.ALONE),
        ("svd-llm+sharing=by-loss", Way.ALONE),
    ],
)
def test_ways(label, way):
    assert way_of(recipe_of(label)) is way


def test_recipes_of_one_objective_are_measured_together():
    (request,) = merged_requests("svd-llm", "svd-llm-v2", "zs-svd", "adasvd", "svd-llm+allocation=curvature")
    assert request.keep_bases
    assert not request.keep_inputs
    for needs in (Needs.SPECTRUM, Needs.FIRST_ORDER, Needs.CURVATURE, Needs.SIMILARITY):
        assert needs in request.needs
    assert request.next_labels == Labels(None, 1)


def test_what_one_measurement_cannot_give_is_measured_apart():
    assert len(merged_requests("zs-svd", "zs-svd+allocation.gradient_samples=2")) == 2
    fishers = ["svd-llm+allocation=curvature", "svd-llm+allocation=curvature+allocation.metric.top_k=5"]
    assert len(merged_requests(*fishers)) == 2
    assert len(merged_requests("svd-llm", "svd-llm+objective.shrinkage=0.1")) == 2
    assert len(merged_requests("svd-llm", "zs-svd+structure=hybrid")) == 2


def test_only_what_is_needed_is_kept():
    assert merged_requests("int8", "saes-svd", "zs-svd-staged") == []  # factors nothing; nothing to know; alone
    (pivoted,) = merged_requests("svd-llm+structure=pivoted")
    assert pivoted.keep_inputs
    (gptq,) = merged_requests("gptq")
    assert (gptq.keep_bases, gptq.keep_inputs) == (False, True)
    (walked,) = merged_requests("saes-svd+allocation=energy")
    assert not walked.keep_bases


def test_patterns_are_overrides_like_others():
    label = "svd+targets.*.down_proj.keep=0.9+targets.*=leave+structure=pivoted+towers.vision=0.8"
    assert split_label(label) == (
        "svd",
        ["targets.*.down_proj.keep=0.9", "targets.*=leave", "structure=pivoted", "towers.vision=0.8"],
    )
    _, other, case = cases_of(
        ["svd", eckart.load_recipe("svd", ["allocation.multiple=4"])], [0.5], [1], ["targets.*.q=leave"]
    )
    assert (other.label, case.label) == ("svd+targets.*.q=leave", "svd (allocation.multiple=4) (targets.*.q=leave)")
    assert [found.recipe is not None and len(found.recipe.targets) for found in (case, other)] == [1, 1]


def test_bases_are_kept_where_any_linear_has_a_size_of_its_own():
    recipe = recipe_of("svd+targets.a.keep=0.5")
    assert request_for(recipe_of("svd"), [1.0], LINEARS) is None
    found = request_for(recipe, [1.0], LINEARS)
    assert found is not None
    assert found.keep_bases
