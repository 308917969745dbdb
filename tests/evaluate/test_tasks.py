from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import make_model
from tests.evaluate.helpers import DOCUMENTS, documents, write_group, write_task
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from eckart.errors import EckartError
from eckart.evaluate import ZeroShot, load_tasks, zero_shot
from eckart.evaluate.tasks import Score

pytest.importorskip("lm_eval")
pytestmark = pytest.mark.usefixtures("quick")


def correct(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, *, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return 1 or 0 for each document, by log-likelihoods in float64 without batches or padding."""
    wide = copy.deepcopy(model).double()
    found: dict[str, list[float]] = {"acc": [], "acc_norm": []}
    for document in documents(seed):
        context = f"Question: {document['question']}\nAnswer:"
        start, sums = len(tokenizer(context)["input_ids"]), []
        for choice in document["choices"]:
            ids = torch.tensor(tokenizer(f"{context} {choice}")["input_ids"])
            with torch.no_grad():
                chances = wide(ids[None]).logits[0, :-1].log_softmax(-1)
            sums.append(float(chances.gather(1, ids[1:, None])[start - 1 :].sum()))
        normal = [total / len(choice) for total, choice in zip(sums, document["choices"], strict=True)]
        for metric, values in (("acc", sums), ("acc_norm", normal)):
            found[metric].append(float(values.index(max(values)) == document["answer"]))
    return {metric: torch.tensor(values, dtype=torch.float64) for metric, values in found.items()}


def by_metric(found: ZeroShot, task: str = "colours") -> dict[str, Score]:
    return {score.metric: score for score in found.scores if score.task == task}


def error_of(values: torch.Tensor) -> float:
    return float(values.std() / len(values) ** 0.5)


def test_equals_brute_force(llama: PreTrainedModel, byte_tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    before = copy.deepcopy(byte_tokenizer.special_tokens_map)
    found = zero_shot(llama, byte_tokenizer, load_tasks(["colours"], path=folder))
    for metric, values in correct(llama, byte_tokenizer).items():
        score = by_metric(found)[metric]
        assert 0 < score.value < 1
        assert score.value == pytest.approx(float(values.mean()))
        assert score.error == pytest.approx(error_of(values))
        assert (score.documents, score.few_shot, score.version, score.filter) == (DOCUMENTS, 0, "3.0", "none")
        assert score.baseline is score.difference is score.difference_error is None
    assert found.average is not None
    assert (found.average.metric, found.average.tasks) == ("acc", 1)
    assert found.average.value == by_metric(found)["acc"].value
    assert byte_tokenizer.special_tokens_map == before


@pytest.mark.parametrize("few_shot", [None, 1])
def test_equals_the_harness_called_directly(
    model_folder: Path, byte_tokenizer: PreTrainedTokenizerFast, folder: Path, few_shot: int | None
) -> None:
    import lm_eval
    from lm_eval.tasks import TaskManager

    byte_tokenizer.save_pretrained(model_folder)
    direct = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(model_folder), "dtype": "float32"},
        device="cpu",
        batch_size=4,
        tasks=["colours"],
        task_manager=TaskManager(include_path=str(folder)),
        num_fewshot=few_shot,
        limit=9,
    )
    tasks = load_tasks(["colours"], path=folder, few_shot=few_shot)
    found = zero_shot(make_model("llama"), byte_tokenizer, tasks, limit=9, batch_size=4)
    for metric, score in by_metric(found).items():
        assert score.value == direct["results"]["colours"][f"{metric},none"]
        assert score.error == direct["results"]["colours"][f"{metric}_stderr,none"]
        assert score.few_shot == direct["n-shot"]["colours"] == (few_shot or 0)
        assert score.documents == direct["n-samples"]["colours"]["effective"] == 9
    assert found.harness == lm_eval.__version__


def test_a_difference_is_of_the_same_documents(
    llama: PreTrainedModel, byte_tokenizer: PreTrainedTokenizerFast, folder: Path
) -> None:
    other = make_model("llama", seed=1)
    found = zero_shot(llama, byte_tokenizer, load_tasks(["colours"], path=folder), baseline=other)
    ours, theirs = correct(llama, byte_tokenizer), correct(other, byte_tokenizer)
    for metric, score in by_metric(found).items():
        assert score.baseline == pytest.approx(float(theirs[metric].mean()))
        assert score.baseline_error == pytest.approx(error_of(theirs[metric]))
        assert score.difference == pytest.approx(float((ours[metric] - theirs[metric]).mean()))
        assert score.difference_error == pytest.approx(error_of(ours[metric] - theirs[metric]))
    assert any(float((ours[metric] - theirs[metric]).abs().sum()) > 0 for metric in ours)


def test_the_same_model_is_shown_the_same_examples(
    llama: PreTrainedModel, byte_tokenizer: PreTrainedTokenizerFast, folder: Path
) -> None:
    tasks = load_tasks(["colours"], path=folder, few_shot=1)
    first = zero_shot(llama, byte_tokenizer, tasks, baseline=llama)
    assert [(score.few_shot, score.difference, score.difference_error) for score in first.scores] == [(1, 0, 0)] * 2
    assert zero_shot(llama, byte_tokenizer, tasks, baseline=llama) == first


def test_a_group_and_the_average(llama: PreTrainedModel, byte_tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    for name, seed in (("one", 1), ("two", 2)):
        write_task(folder, name, seed=seed)
    write_group(folder, "both", ["one", "two"])
    other = make_model("llama", seed=1)
    found = zero_shot(llama, byte_tokenizer, load_tasks(["both", "colours"], path=folder), baseline=other)
    assert [(score.task, score.metric, score.group) for score in found.scores] == [
        ("both", "acc", None),
        ("one", "acc", "both"),
        ("one", "acc_norm", None),  # the group has no such score
        ("two", "acc", "both"),
        ("two", "acc_norm", None),
        ("colours", "acc", None),
        ("colours", "acc_norm", None),
    ]
    pairs = [(correct(llama, byte_tokenizer, seed=i), correct(other, byte_tokenizer, seed=i)) for i in (1, 2, 0)]
    differences = [ours["acc"] - theirs["acc"] for ours, theirs in pairs]
    group = by_metric(found, "both")["acc"]
    pooled = torch.cat(differences[:2])
    assert (group.documents, group.version) == (2 * DOCUMENTS, "2.0")
    assert group.difference == pytest.approx(float(pooled.mean()))
    assert group.difference_error == pytest.approx(error_of(pooled))
    assert found.average is not None
    assert found.average.tasks == 2
    colours = by_metric(found)["acc"]
    assert found.average.value == pytest.approx((group.value + colours.value) / 2)
    assert found.average.difference == pytest.approx((float(pooled.mean()) + float(differences[2].mean())) / 2)
    error = (error_of(pooled) ** 2 + error_of(differences[2]) ** 2) ** 0.5 / 2
    assert found.average.difference_error == pytest.approx(error)


def test_a_metric_that_is_no_mean_has_no_paired_error(
    llama: PreTrainedModel, byte_tokenizer: PreTrainedTokenizerFast, folder: Path
) -> None:
    # Resampled, so it also shows that this prints nothing.
    write_task(
        folder, "f1", metric_list=[{"metric": "f1"}], doc_to_choice=["yes", "no"], doc_to_target="{{answer % 2}}"
    )
    found = zero_shot(llama, byte_tokenizer, load_tasks(["f1"], path=folder), baseline=make_model("llama", seed=1))
    (score,) = found.scores
    assert score.metric == "f1"
    assert score.error is not None
    assert score.difference_error is None
    assert found.average is None


def test_progress_is_told(llama: PreTrainedModel, byte_tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    seen: list[Any] = []
    tasks = load_tasks(["colours"], path=folder)
    zero_shot(llama, byte_tokenizer, tasks, limit=2, on_request=lambda *facts: seen.append(facts))
    assert seen == [("colours", done, 6) for done in range(1, 7)]


@pytest.mark.parametrize(("options", "message"), [({"limit": 0}, "limit is 1 or more"), ({"batch_size": 0}, "batch")])
def test_numbers_below_one(
    llama: PreTrainedModel, byte_tokenizer: PreTrainedTokenizerFast, folder: Path, options: Any, message: str
) -> None:
    with pytest.raises(EckartError, match=message):
        zero_shot(llama, byte_tokenizer, load_tasks(["colours"], path=folder), **options)


def test_a_model_that_gives_nan(llama: PreTrainedModel, byte_tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    with torch.no_grad():
        llama.lm_head.weight[0] = torch.nan
    with pytest.raises(EckartError, match="'colours' is NaN"):
        zero_shot(llama, byte_tokenizer, load_tasks(["colours"], path=folder))
